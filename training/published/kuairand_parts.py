"""The window of the KuaiRand protocol: history and 04-25..28 to learn from, 04-29 and later to be judged on.

The last day before the test stops and calibrates a first training; a second one learns from that day too and is what
the test judges. For tuning the test days are left away, and the last two days
before them are judged instead.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from models.features import Feature
from training.examples import Examples
from training.published.kuairand_features import Columns, kuairand_columns
from training.published.kuairand_known import BLOCK_ROWS, places_from_end
from training.published.kuairand_log import HEADS, KuaiRand
from training.published.kuairand_spec import kuairand_features

TEST_FROM = 20220429
TUNING_DAYS = 2
DATED_WEIGHT = 3.0
"""What a dated row counts beside one of a user's latest in the history, which knows neither surface nor hour."""
OLDER_WEIGHT = 0.5
"""What a history row counts that is not among its user's latest BLOCK_ROWS."""
DAY_SECONDS = 86_400.0


@dataclass(frozen=True)
class Parts:
    """Examples of each part; `days` of a part are `served_at` in days since the log's first."""

    train: Examples
    valid: Examples
    """The last day before the test: stops and calibrates what was learnt from `train`."""
    whole: Examples
    """Both together, from which the models that are judged learn once more."""
    test: Examples
    features: list[Feature]


def kuairand_parts(data: KuaiRand, *, is_tuning: bool, user_share: float = 1.0) -> Parts:
    """The parts, of a share of the users. Raises InputError where the log has no day before or from TEST_FROM on."""
    first_test = int(np.searchsorted(data.dates, TEST_FROM))
    if is_tuning:
        data, first_test = _rows(data, data.day < first_test), first_test - TUNING_DAYS
    num_days = int(data.day.max()) + 1
    if first_test < 2 or first_test >= num_days:
        raise InputError(
            f"the log's days are {data.dates.min()} to {data.dates.max()}; expected at least two before {TEST_FROM}, "
            f"to learn from and to calibrate on, and one from then on"
        )
    if user_share < 1:
        data = _rows(data, data.users < user_share * len(data.user_ids))
    columns = kuairand_columns(data, first_test)
    day = data.day
    return Parts(
        _examples(data, columns, day < first_test - 1),
        _examples(data, columns, day == first_test - 1),
        _examples(data, columns, day < first_test),
        _examples(data, columns, day >= first_test),
        kuairand_features(data, columns),
    )


def without_older(part: Examples) -> Examples:
    """Only the rows that count in full: trees learn no more from the older ones, networks do."""
    return part if part.weights is None else part.take(np.flatnonzero(part.weights > OLDER_WEIGHT))


def days_of(part: Examples) -> NDArray[np.int64]:
    """Day of each row since the log's first, [N]."""
    return (part.served_at // DAY_SECONDS).astype(np.int64)


def _rows(data: KuaiRand, is_kept: NDArray[np.bool_]) -> KuaiRand:
    names = ("users", "videos", "labels", "day", "hour", "shown_ms", "surface")
    return replace(data, **{name: getattr(data, name)[is_kept] for name in names})


def _examples(data: KuaiRand, columns: Columns, is_in: NDArray[np.bool_]) -> Examples:
    rows = np.flatnonzero(is_in)
    of_history = np.where(places_from_end(data) < BLOCK_ROWS, 1.0, OLDER_WEIGHT)
    weights = np.where(data.is_history, of_history, DATED_WEIGHT).astype(np.float32)
    return Examples(
        {name: values[rows] for name, values in columns.items()},
        data.labels[rows],
        data.user_ids[data.users[rows]],
        data.video_ids[data.videos[rows]],
        rows,
        (data.day[rows] * DAY_SECONDS).astype(np.float64),
        weights[rows],
        label_names=HEADS,
    )
