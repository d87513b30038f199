"""Every recommendable post with its features as of one instant; what post vectors are computed from."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from core.errors import InputError
from core.settings import Settings
from training.example_rows import CONTEXT_TEXTS, LABELS
from training.recipe_features import recipe_columns
from training.set_files import ExampleSet
from training.sets import Progress, SetConfig, inputs_id, unchanged_set, write_set

NOBODY = -1
"""The user of catalogue rows: unknown to every view, so user features are null."""


def catalogue_at(settings: Settings) -> datetime:
    """The instant that "now" means for a catalogue: the end of anchored data, else the current hour."""
    workspace = settings.workspace
    anchor_at = workspace.manifest().anchor_at if settings.clock == "auto" else None
    if anchor_at is not None:
        return anchor_at
    return workspace.clock(settings.clock).now().replace(minute=0, second=0, microsecond=0)


def build_catalogue(settings: Settings, at: datetime, progress: Progress, name: str = "catalogue") -> ExampleSet:
    """One row per post that could be recommended at `at`, with what was known then; kept until inputs change."""
    columns = tuple(c for c in recipe_columns(has_crosses=False) if c.startswith(("post_", "creator_")))
    config = SetConfig(name, "retrieval_v1", "catalogue", max_rows=1, columns=columns)
    made_from = f"{inputs_id(settings.workspace, config)}@{at.astimezone(UTC).isoformat()}"
    root = settings.workspace.index
    present = unchanged_set(root, name, made_from)
    if present is not None:
        return present
    rows = _rows(settings, at)
    part = np.zeros(len(rows), dtype=np.int8)
    return write_set(root, settings.workspace, config, rows, part, made_from, progress)


def _rows(settings: Settings, at: datetime) -> pa.Table:
    from events.read import connect, register_log

    connection = connect(settings)
    try:
        register_log(connection, settings.workspace.log)
        posts = connection.sql(
            """
            SELECT post_id, arg_max(creator_id, (event_at, known_at)) AS creator_id
            FROM posts WHERE event_at <= $at AND known_at <= $at GROUP BY post_id
            HAVING arg_max(is_recommendable, (event_at, known_at)) ORDER BY post_id
            """,
            params={"at": at},
        ).to_arrow_table()
    finally:
        connection.close()
    if not len(posts):
        raise InputError(f"no recommendable post in {settings.workspace.log / 'posts'} before {at}; import posts first")
    n = len(posts)
    micros = pa.array(np.full(n, int(at.timestamp() * 1e6)), pa.int64())
    return pa.table(
        {
            "user_id": pa.array(np.full(n, NOBODY), pa.int64()),
            "post_id": posts["post_id"],
            "creator_id": posts["creator_id"],
            "served_at": micros.cast(pa.timestamp("us", tz="UTC")),
            "weights": pa.array(np.ones(n), pa.float32()),
            "request_id": pa.array(-1 - np.arange(n), pa.int64()),
            **{f"request__{text}": pa.array([""] * n) for text in CONTEXT_TEXTS},
            **{label: pa.nulls(n, pa.float32()) for label in LABELS},
        }
    )
