"""The counterfactual log: what the platform would have had, had nothing happened after an instant.

Features are published `PUBLISH_LAG` after every hour, so all rows served between one publication and the next read
the same hourly tables. A log cut at a publication therefore serves every row up to the next one: features built
from it and joined at the rows' own instants must be the values that the training set holds.

What streams in between publications (profiles and posts) is cut too; rows whose own user, post or creator changed
since the cut are left out by `changed_since`, since for them the cut took away what was rightly known.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from core.clock import FrozenClock
from core.schema import TABLES
from core.settings import Settings
from core.workspace import Workspace
from events.log import count_rows
from feature_repo.build import build_features
from feature_repo.catalog import PUBLISH_LAG
from feature_repo.store import apply_definitions

SCRATCH_PREFIX = ".counterfactual-"
"""Begins the name of a scratch workspace, inside the workspace that is audited; gone when the audit ends."""

PERIOD_SECONDS = 3_600
_STREAMED = {"user": "users", "post": "posts", "creator": "creators"}


@dataclass(frozen=True)
class Cut:
    """A log cut at `at`: rows kept and removed over all tables."""

    at: datetime
    num_kept: int
    num_removed: int


def publication_before(used_at: NDArray[np.float64]) -> NDArray[np.int64]:
    """The last publication at or before each instant, both in unix seconds, [N]."""
    lag = int(PUBLISH_LAG.total_seconds())
    return (np.floor((used_at - lag) / PERIOD_SECONDS).astype(np.int64)) * PERIOD_SECONDS + lag


def cut_log(log: Path, target: Path, at: datetime) -> Cut:
    """Writes to `target` the log without what happened or was known after `at`, nor anything that came of it.

    An engagement on an impression that was served later goes too, whatever instants it carries. Files that stay
    whole are linked, not copied.
    """
    num_kept = num_removed = 0
    later = _impressions_served_after(log, at)
    for table in TABLES:
        for file in sorted((log / table).glob("day=*/*.parquet")):
            place = target / file.relative_to(log)
            place.parent.mkdir(parents=True, exist_ok=True)
            kept, removed = _cut_file(file, place, table, at, later)
            num_kept, num_removed = num_kept + kept, num_removed + removed
    (target / "impressions").mkdir(parents=True, exist_ok=True)
    return Cut(at, num_kept, num_removed)


@contextmanager
def counterfactual(
    workspace: Workspace, settings: Settings, at: datetime, told: Callable[[str], None]
) -> Iterator[tuple[Workspace, Cut]]:
    """A scratch workspace with the log cut at `at` and features built from it; removed when the block ends."""
    with tempfile.TemporaryDirectory(dir=workspace.root, prefix=SCRATCH_PREFIX) as folder:
        scratch = Workspace(Path(folder))
        told("cutting the log")
        cut = cut_log(workspace.log, scratch.log, at)
        manifest = workspace.manifest()
        last = max(manifest.first_event_at, min(manifest.last_event_at, at))
        rows = count_rows(scratch.log)
        scratch.write_manifest(replace(manifest, anchor_at=at, last_event_at=last, rows=rows))
        told("building features")
        build_features(scratch, settings, FrozenClock(at))
        told("registering features")
        apply_definitions(scratch)
        yield scratch, cut


def changed_since(
    connection: duckdb.DuckDBPyConnection,
    at: datetime,
    entity_ids: dict[str, NDArray[np.int64]],
    used_at: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Rows [N] whose user, post or creator has a log row that became known between `at` and their use.

    `connection` has the log's views; `used_at` in unix seconds, less than a day after `at`.
    """
    is_changed = np.zeros(len(used_at), dtype=bool)
    since = at.timestamp()
    for entity, table in _STREAMED.items():
        came = "epoch(greatest(event_at, known_at))"
        found = connection.sql(f"""
            SELECT {entity}_id AS id, min({came}) AS at FROM {table}
            WHERE {came} > {since!r} AND {came} < {since + 86_400!r} GROUP BY id ORDER BY id
        """).to_arrow_table()
        ids, instants = found["id"].to_numpy(), found["at"].to_numpy()
        if len(ids):
            place = np.minimum(np.searchsorted(ids, entity_ids[entity]), len(ids) - 1)
            is_changed |= (ids[place] == entity_ids[entity]) & (instants[place] <= used_at)
    return is_changed


def _impressions_served_after(log: Path, at: datetime) -> pa.ChunkedArray:
    """Ids of the impressions served after `at`, those without a serve time by when they were seen."""
    parts = []
    for file in sorted((log / "impressions").glob("day=*/*.parquet")):
        rows = pq.ParquetFile(file).read(["event_id", "served_at", "event_at"])
        is_later = pc.greater(pc.coalesce(rows["served_at"], rows["event_at"]), _instant(at))
        parts += rows["event_id"].filter(is_later).cast(pa.string()).chunks
    return pa.chunked_array(parts, pa.string())


def _cut_file(file: Path, place: Path, table: str, at: datetime, later: pa.ChunkedArray) -> tuple[int, int]:
    """Rows kept and removed; a file without a kept row is not written."""
    names = ["event_at", "known_at", *{"impressions": ["event_id"], "engagements": ["impression_id"]}.get(table, [])]
    rows = pq.ParquetFile(file).read(names)
    is_kept = pc.and_(pc.less_equal(rows["event_at"], _instant(at)), pc.less_equal(rows["known_at"], _instant(at)))
    is_kept = pc.fill_null(is_kept, False)
    if len(names) > 2 and len(later) and pc.any(is_kept).as_py():
        is_kept = pc.and_(is_kept, pc.invert(pc.is_in(rows[names[2]].cast(pa.string()), value_set=later)))
    num_kept = int(pc.sum(is_kept).as_py() or 0)
    if num_kept == rows.num_rows:
        place.symlink_to(file.resolve())
    elif num_kept:
        pq.write_table(pq.ParquetFile(file).read().filter(is_kept), place)
    return num_kept, rows.num_rows - num_kept


def _instant(at: datetime) -> pa.Scalar:
    return pa.scalar(at.astimezone(UTC), pa.timestamp("us", tz="UTC"))
