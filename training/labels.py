"""What an impression led to, per head: 1.0 it happened, 0.0 it did not, NaN the log would not show it.

A label counts engagements that name the impression and happen within the label window after it. It is
mature once that window closed before the end of the data; immature impressions are not examples.
"""

import numpy as np
from numpy.typing import NDArray

from core.schema import HEADS, NEGATIVE_HEADS

LABEL_WINDOW_SECONDS = 1_800

POSITIVE_VALUES = {
    "click": 1.0,
    "like": 2.0,
    "comment": 4.0,
    "share": 4.0,
    "save": 3.0,
    "follow": 5.0,
    "long_view": 1.5,
}
"""What one engagement is worth as a retrieval positive; a training weight, not the value model of the feed."""

MAX_POSITIVE_VALUE = 8.0


def label_columns_sql(sample: str = "sample") -> str:
    """SELECT of event_id and one nullable FLOAT `label_<head>` per head, one row per row of `sample`.

    `sample` names a relation with event_id, event_at and observed_kinds; `engagements` must be registered.
    """
    happened = ",\n".join(f"bool_or(e.kind = '{head}') AS has_{head}" for head in HEADS)
    labels = ",\n".join(
        f"CASE WHEN s.observed_kinds IS NULL OR list_contains(s.observed_kinds, '{head}') "
        f"THEN coalesce(a.has_{head}, false)::FLOAT END AS label_{head}"
        for head in HEADS
    )
    return f"""
    WITH acted AS (
        SELECT e.impression_id, {happened}
        FROM engagements e JOIN {sample} s ON s.event_id = e.impression_id
        WHERE e.event_at >= s.event_at AND e.event_at <= s.event_at + INTERVAL {LABEL_WINDOW_SECONDS} SECOND
        GROUP BY e.impression_id
    )
    SELECT s.event_id, {labels}
    FROM {sample} s LEFT JOIN acted a ON a.impression_id = s.event_id
    """


def positive_values(labels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Worth of each row as a retrieval positive, [N], from labels [N, H]; 0 without a positive engagement.

    A row with a negative signal (see less, report) is worth 0, whatever else happened.
    """
    seen = np.nan_to_num(labels, nan=0.0)
    worth = np.array([POSITIVE_VALUES.get(head, 0.0) for head in HEADS], dtype=np.float32)
    is_refused = seen[:, [HEADS.index(head) for head in NEGATIVE_HEADS]].any(axis=1)
    values = np.minimum(seen @ worth, MAX_POSITIVE_VALUE)
    return np.where(is_refused, 0.0, values).astype(np.float32)
