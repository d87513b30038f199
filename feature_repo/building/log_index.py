"""What each file of the log covers, so that a build opens only those it needs and sees what changed."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.errors import FeatureStoreError
from feature_repo.building.hours import LAG_US, US_PER_HOUR, Span

TABLES = ("impressions", "engagements", "follows", "users", "creators", "posts")
"""Tables of the log from which features are computed."""

EVENTS_PER_STEP = 250_000
"""Impressions and engagements computed at once where several days are."""

BATCH_ROWS = 262_144

_MICROS = pa.timestamp("us", tz="UTC")

LogIndex = dict[str, dict[str, "LogFile"]]
"""Files of each table by their path within it."""


@dataclass(frozen=True)
class LogFile:
    """One file: size and modification time tell whether it changed, the rest what is in it (microseconds since 1970).

    `first_visible` is the first hour, by number, that shows anything of it.
    """

    num_bytes: int
    modified_ns: int
    num_rows: int
    first_event: int
    last_event: int
    first_known: int
    last_known: int
    first_visible: int
    has_observed_kinds: bool


def read_log_index(log_root: Path, former: LogIndex) -> LogIndex:
    """The index of the log as it is now; files that `former` has unchanged are not opened.

    Raises FeatureStoreError for a file that cannot be read.
    """
    index: LogIndex = {}
    for table in TABLES:
        known = former.get(table, {})
        found = {p.relative_to(log_root / table).as_posix(): p for p in (log_root / table).glob("day=*/*.parquet")}
        stats = {name: path.stat() for name, path in found.items()}
        kept = {
            name: known[name]
            for name, stat in stats.items()
            if name in known and (known[name].num_bytes, known[name].modified_ns) == (stat.st_size, stat.st_mtime_ns)
        }
        fresh = {name: _file(path, stats[name]) for name, path in found.items() if name not in kept}
        kept |= {name: file for name, file in fresh.items() if file is not None}
        index[table] = dict(sorted(kept.items()))
    return index


def changed_files(index: LogIndex, former: LogIndex) -> dict[str, list[LogFile]]:
    """Files that came, went or were rewritten since `former`, by table."""
    changed: dict[str, list[LogFile]] = {}
    for table in TABLES:
        now, then = index[table], former.get(table, {})
        differing = {name for name in now.keys() | then.keys() if now.get(name) != then.get(name)}
        changed[table] = [files[name] for name in sorted(differing) for files in (now, then) if name in files]
    return changed


def first_changed_hour(changed: Mapping[str, list[LogFile]], group: str) -> int | None:
    """The first hour whose rows may differ because of the changed files, None for none."""
    if group == "hourly":
        hours = [f.first_visible for t in ("impressions", "engagements") for f in changed[t]]
        hours += [-(-f.first_known // US_PER_HOUR) for f in changed["posts"]]
    else:
        hours = [f.first_visible for f in changed["follows"]]
        hours += [
            -(-(f.first_known - LAG_US) // US_PER_HOUR) for t in ("users", "creators", "posts") for f in changed[t]
        ]
    return min(hours, default=None)


def reaches_back(changed: Mapping[str, list[LogFile]], last_hour: int, data_end: int) -> bool:
    """Whether a changed file touches rows of a build up to `last_hour` and `data_end` microseconds since 1970."""
    events = [f.first_visible <= last_hour for t in ("impressions", "engagements", "follows") for f in changed[t]]
    return any(events) or any(f.first_known <= data_end for t in ("users", "creators", "posts") for f in changed[t])


def files_of_span(index: LogIndex, span: Span, log_root: Path) -> dict[str, list[Path]]:
    """The files that can hold something of the span, by table; posts are all needed, as any can be engaged with."""
    known_after = (span.first - 1) * US_PER_HOUR
    windows = [((first - 1) * US_PER_HOUR, last * US_PER_HOUR) for first, last in span.leaving()]

    def is_needed(table: str, file: LogFile) -> bool:
        if table == "posts" or file.last_known >= known_after:
            return True
        is_windowed = table in ("impressions", "engagements")
        return is_windowed and any(file.first_event < end and file.last_event >= start for start, end in windows)

    return {
        table: [log_root / table / name for name, file in files.items() if is_needed(table, file)]
        for table, files in index.items()
    }


def events_per_day(index: LogIndex) -> int:
    """Impressions and engagements of a day on average, at least one."""
    files = [f for table in ("impressions", "engagements") for f in index[table].values()]
    if not files:
        return EVENTS_PER_STEP
    num_days = (max(f.last_event for f in files) - min(f.first_event for f in files)) // (24 * US_PER_HOUR) + 1
    return max(1, sum(f.num_rows for f in files) // num_days)


def has_observed_kinds(index: LogIndex) -> bool:
    """Whether any impression says which engagements are recorded for it."""
    return any(file.has_observed_kinds for file in index["impressions"].values())


def _file(path: Path, stat: os.stat_result) -> LogFile | None:
    """What the file covers, None where it has no rows; by Arrow, as DuckDB would plan a query for each new file."""
    try:
        with pq.ParquetFile(path) as file:
            batches = list(file.iter_batches(BATCH_ROWS, columns=["event_at", "known_at"]))
            has_kinds = "observed_kinds" in file.schema_arrow.names and any(
                batch["observed_kinds"].null_count < len(batch)
                for batch in file.iter_batches(BATCH_ROWS, columns=["observed_kinds"])
            )
    except (pa.ArrowException, OSError) as error:
        raise FeatureStoreError(
            f"{path} of the log cannot be read ({error}); the feature tables are left as they were"
        ) from error
    instants = pa.Table.from_batches(batches) if batches else None
    if not instants:
        return None
    event, known = (instants[name].cast(_MICROS).cast(pa.int64()).to_numpy() for name in ("event_at", "known_at"))
    first_visible = np.maximum(event // US_PER_HOUR + 1, -(-known // US_PER_HOUR)).min()
    return LogFile(
        num_bytes=stat.st_size,
        modified_ns=stat.st_mtime_ns,
        num_rows=len(event),
        first_event=int(event.min()),
        last_event=int(event.max()),
        first_known=int(known.min()),
        last_known=int(known.max()),
        first_visible=int(first_visible),
        has_observed_kinds=has_kinds,
    )
