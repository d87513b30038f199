"""The append side of the event log: day-partitioned Parquet that no reader ever sees half written.

    log/<table>/day=YYYY-MM-DD/<source>-<content hash>.parquet

The day of an event is that of its event time. Users, creators, posts and follows lie by the day they were known: they
became true over years, and a folder for every day on which someone registered would make readers slow.

A file appears under its final name only once its bytes are on disk. Rows are unique by the table's key when they are
written, so readers need not deduplicate, and appending a batch again changes nothing.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from core.errors import InputError
from core.files import file_hash, sync_folder
from core.schema import TABLES, TableSchema
from events.conform import conform
from events.lock import exclusive
from events.swap import replace_folder

_US_PER_DAY = 86_400_000_000
_ROW_GROUP = 262_144
_UNIQUE_TEXT = ("event_id", "impression_id", "external_id")
BY_KNOWN_DAY = ("users", "creators", "posts", "follows")
"""Tables whose day folders go by known time; the others go by event time."""

JOURNAL_PLACE = "journal_place.json"
"""File of a log that tells up to where it holds the journal."""

REQUESTS_UNTIL = "requests_until.json"
"""File of a log that tells up to when it holds the requests that were served."""

FROM_JOURNAL = ("users", "creators", "posts", "follows", "requests", "impressions", "engagements")
"""Tables into which the journal is compacted."""

_SOURCE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class AppendReport:
    """What one append did: rows offered, rows written, rows dropped as already present, days touched."""

    table: str
    num_offered: int
    num_written: int
    num_duplicates: int
    days: tuple[str, ...]


def append(log_root: Path, table: str, rows: pa.Table, *, source: str) -> AppendReport:
    """A report of what was added to `table`; rows whose key is already there are dropped and counted.

    Safe with several processes: one writer per table at a time, readers never wait.
    Raises InputError when the rows do not have the table's schema.
    """
    if not _SOURCE.fullmatch(source):
        raise ValueError(f"source {source!r} must be lower case letters, digits, '_', '.' or '-'")
    schema = table_schema(table)
    conformed = conform(rows, schema)
    with exclusive(log_root, table):
        fresh = _without_known(_unique(conformed, schema), schema, log_root / table)
        days = _write_days(table, fresh, log_root / table, source)
    return AppendReport(table, rows.num_rows, fresh.num_rows, rows.num_rows - fresh.num_rows, days)


def replace_all(log_root: Path, table: str, rows: pa.Table, *, source: str = "replace") -> AppendReport:
    """A report of rewriting the whole table: readers see all of the old rows, then all of the new.

    Rows from the journal go too; the log then forgets its place in the journal, so that compaction brings them back.
    """
    schema = table_schema(table)
    fresh = _unique(conform(rows, schema), schema)
    with exclusive(log_root, table):
        staging = Path(tempfile.mkdtemp(dir=log_root, prefix=f".{table}-"))
        try:
            days = _write_days(table, fresh, staging, source)
            if table in FROM_JOURNAL:
                for mark in (JOURNAL_PLACE, REQUESTS_UNTIL):
                    (log_root / mark).unlink(missing_ok=True)
            replace_folder(staging, log_root / table)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return AppendReport(table, rows.num_rows, fresh.num_rows, rows.num_rows - fresh.num_rows, days)


@contextmanager
def staged(log_root: Path) -> Iterator[Path]:
    """An empty log to append to; it becomes `log_root` when the block ends and vanishes when it raises.

    For whole datasets: the old log stays complete and readable until the new one replaces it.
    """
    log_root.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=log_root.parent, prefix=f".{log_root.name}-"))
    try:
        yield staging
        with exclusive(log_root.parent, log_root.name):
            replace_folder(staging, log_root)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def count_rows(log_root: Path) -> dict[str, int]:
    """Rows of every table that has files, read from the files' footers."""
    counts: dict[str, int] = {}
    for table in TABLES:
        files = list((log_root / table).glob("day=*/*.parquet"))
        if files:
            counts[table] = sum(pq.read_metadata(file).num_rows for file in files)
    return counts


def table_schema(table: str) -> TableSchema:
    """The schema of the named table. Raises ValueError for a name the log does not have."""
    if table not in TABLES:
        raise ValueError(f"no table {table!r} in the log; there are {', '.join(TABLES)}")
    return TABLES[table]


def _unique(rows: pa.Table, schema: TableSchema) -> pa.Table:
    """`rows` with the first row of every key, order kept."""
    keys = rows.select(list(schema.key)).append_column("row", pa.array(np.arange(rows.num_rows)))
    first = keys.group_by(list(schema.key), use_threads=False).aggregate([("row", "min")])["row_min"]
    if len(first) == rows.num_rows:
        return rows
    return rows.take(first.take(pc.sort_indices(first)))


def _without_known(rows: pa.Table, schema: TableSchema, folder: Path) -> pa.Table:
    """`rows` without those whose key is in the table already; streams the keys, never holds the table."""
    files = sorted(folder.glob("day=*/*.parquet"))
    if not files or rows.num_rows == 0:
        return rows
    key = list(schema.key)
    candidates = pc.unique(rows[key[0]])
    known = ds.dataset([str(file) for file in files], schema=schema.arrow).to_table(
        columns=key, filter=pc.field(key[0]).isin(candidates)
    )
    if known.num_rows == 0:
        return rows
    numbered = rows.select(key).append_column("row", pa.array(np.arange(rows.num_rows)))
    kept = numbered.join(known, key, join_type="left anti", use_threads=False)["row"]
    return rows.take(kept.take(pc.sort_indices(kept)))


def _write_days(table: str, rows: pa.Table, folder: Path, source: str) -> tuple[str, ...]:
    """The days written, one file each, rows in order of the time they lie by."""
    folder.mkdir(parents=True, exist_ok=True)
    if rows.num_rows == 0:
        return ()
    time = "known_at" if table in BY_KNOWN_DAY else "event_at"
    days = _days(rows, time)
    if np.any(days[1:] < days[:-1]):
        rows = rows.take(pc.sort_indices(rows[time]))
        days = _days(rows, time)
    values, starts = np.unique(days, return_index=True)
    ends = [*starts[1:], rows.num_rows]
    names = tuple(_day_name(day) for day in values)
    for name, start, end in zip(names, starts, ends, strict=True):
        _write_file(rows.slice(int(start), int(end - start)), folder / f"day={name}", source)
    return names


def _write_file(rows: pa.Table, folder: Path, source: str) -> None:
    """One Parquet file, named by its content, durable before it is visible."""
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".", suffix=".writing")
    try:
        with os.fdopen(handle, "wb") as file:
            pq.write_table(
                rows,
                file,
                compression="zstd",
                row_group_size=_ROW_GROUP,
                use_dictionary=[name for name in rows.column_names if name not in _UNIQUE_TEXT],
            )
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(folder / f"{source}-{file_hash(Path(temporary), 16)}.parquet")
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(folder)
    if is_new:
        sync_folder(folder.parent)


def _days(rows: pa.Table, time: str) -> NDArray[np.int64]:
    """Days since 1970-01-01 UTC of each row's `time`, [N]."""
    micros: NDArray[np.int64] = rows[time].cast(pa.int64()).to_numpy()
    return micros // _US_PER_DAY


def _day_name(day: int) -> str:
    """The day as YYYY-MM-DD."""
    try:
        return datetime.fromtimestamp(int(day) * 86_400, UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError) as error:
        raise InputError(f"an instant lies {day} days from 1970, outside the calendar; check its unit") from error
