"""What each file of the log covers, so that a build opens only those it needs and sees what changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb

from events.read import register_log
from feature_repo.building.hours import LAG_US, US_PER_HOUR, Span

TABLES = ("impressions", "engagements", "follows", "users", "creators", "posts")
"""Tables of the log from which features are computed."""

EVENTS_PER_STEP = 250_000
"""Impressions and engagements computed at once where several days are."""

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


def read_log_index(connection: duckdb.DuckDBPyConnection, log_root: Path, former: LogIndex) -> LogIndex:
    """The index of the log as it is now; files that `former` has unchanged are not opened."""
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
        fresh = [path for name, path in found.items() if name not in kept]
        for name, facts in _facts(connection, log_root, table, fresh).items():
            kept[name] = LogFile(stats[name].st_size, stats[name].st_mtime_ns, *facts)
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


def _facts(
    connection: duckdb.DuckDBPyConnection, log_root: Path, table: str, files: list[Path]
) -> dict[str, tuple[int, int, int, int, int, int, bool]]:
    if not files:
        return {}
    register_log(connection, log_root, {table: files}, is_named=True)
    observed = "count(observed_kinds) > 0" if table == "impressions" else "false"
    rows = connection.execute(
        f"""SELECT
            filename, count(*),
            min(epoch_us(event_at)), max(epoch_us(event_at)), min(epoch_us(known_at)), max(epoch_us(known_at)),
            min(greatest(epoch_us(event_at) // {US_PER_HOUR} + 1,
                (epoch_us(known_at) + {US_PER_HOUR - 1}) // {US_PER_HOUR})),
            {observed}
        FROM {table} GROUP BY filename"""
    ).fetchall()
    place = log_root / table
    return {Path(name).relative_to(place).as_posix(): tuple(facts) for name, *facts in rows}
