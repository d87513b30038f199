"""Writing days of a view so that a reader finds the old day or the new one, whole.

    data/features/<view>/day=YYYY-MM-DD/from<hour>_to<hour>.parquet

A file's name says which hours it holds. A build stages its files beside the table, adds the files of the same days that
stay (hard links) and swaps each day in one step, so that a build that was interrupted can simply run again.
"""

import itertools
import os
import re
import shutil
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from core.files import sync_folder
from events.swap import replace_folder
from feature_repo.building.hours import FIRST_HOUR, US_PER_HOUR, Span, last_published, published
from feature_repo.building.sql import quoted
from feature_repo.catalog import View

OPEN_END = 9_999_999
"""Last hour in the name of a file whose rows may be known at any later time."""

MAX_FILES_OF_CLOSED_DAY = 4
"""A day that no later hour will add to is merged into one file where it has more."""

_EPOCH_DAY = date(1970, 1, 1).toordinal()
_NAME = re.compile(r"from(-?\d+)_to(\d+)(?:_\d+)?\.parquet")


@dataclass
class StagedView:
    """The new files of one view; they replace the old rows that became known in (`after`, `until`], None for no end."""

    view: View
    place: Path
    first_day: int
    after: int
    until: int | None
    num_rows: dict[str, int]
    num_staged: int = 0
    last_event: datetime | None = None
    last_known: datetime | None = None

    @property
    def fresh(self) -> Path:
        return self.place.with_name(f".{self.place.name}.new")

    def clear(self) -> None:
        """Removes what an interrupted build may have left."""
        shutil.rmtree(self.fresh, ignore_errors=True)
        self.fresh.mkdir(parents=True)

    def stage(self, connection: duckdb.DuckDBPyConnection, query: str, span: Span, is_hourly: bool) -> None:
        """Adds the query's rows of one step."""
        columns = ", ".join(self.view.columns)
        days = [max(hour // 24, self.first_day) for hour in (span.first, span.last)]
        if is_hourly and days[0] == days[1]:  # rows can be written as they come
            day = self.fresh / f"day={_day_name(days[0])}"
            day.mkdir(exist_ok=True)
            file = day / f"from{span.first}_to{span.last}.parquet"
            # A day's hours are merged when it ends, and written better then.
            compression = "snappy" if span.is_hour else "zstd"
            options = f"(FORMAT parquet, COMPRESSION {compression})"
            copy = f"COPY (SELECT {columns} FROM ({query})) TO '{quoted(file)}' {options}"
            num_rows = connection.execute(copy).fetchall()[0][0]
            self.num_staged += num_rows
            if num_rows == 0:
                file.unlink()
                if not any(day.iterdir()):
                    day.rmdir()
            return
        last = span.last if is_hourly or span.until is not None else OPEN_END
        # What was known before the log begins shares its first day: no folder per day on which an old post appeared.
        day_of = f"strftime(greatest(known_at, TIMESTAMPTZ '{_day_name(self.first_day)} 00:00:00+00'), '%Y-%m-%d')"
        options = f"PARTITION_BY (day), FILENAME_PATTERN 'from{span.first}_to{last}_{{i}}', OVERWRITE_OR_IGNORE"
        self.num_staged += connection.execute(
            f"COPY (SELECT {columns}, {day_of} AS day FROM ({query})) TO '{quoted(self.fresh)}' "
            f"(FORMAT parquet, COMPRESSION zstd, {options})"
        ).fetchall()[0][0]

    def fill(self, connection: duckdb.DuckDBPyConnection, query: str) -> None:
        """Adds a typed file without rows where no rows were staged, so that readers need no special case."""
        if any(self.fresh.iterdir()):
            return
        day = self.fresh / f"day={_day_name(self.first_day)}"
        day.mkdir()
        columns = ", ".join(self.view.columns)
        file = day / f"from{FIRST_HOUR}_to{FIRST_HOUR}.parquet"
        connection.execute(f"COPY (SELECT {columns} FROM ({query}) LIMIT 0) TO '{quoted(file)}' (FORMAT parquet)")

    def commit_whole(self) -> None:
        """Puts the staged files in the place of the whole table."""
        self.num_rows = {}
        for day in sorted(self.fresh.iterdir()):
            self._count(day)
        replace_folder(self.fresh, self.place)

    def commit_days(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Swaps every day that changes; days with several files that no later build will add to are merged."""
        staged = {day.name: sorted(day.glob("*.parquet")) for day in self.fresh.iterdir()}
        present = {day.name: sorted(day.glob("*.parquet")) for day in self.place.glob("day=*")}
        last_day = max([*staged, *present], default="")
        for name in sorted(staged.keys() | present.keys()):
            files = present.get(name, [])
            stays = {file: self._part_that_stays(file) for file in files}
            is_closed = name < last_day and len(files) + len(staged.get(name, [])) > MAX_FILES_OF_CLOSED_DAY
            if name not in staged and not is_closed and all(part == "all" for part in stays.values()):
                self._recount(name, files)
                continue
            self._assemble(connection, name, stays)
            if is_closed:
                self._merge(connection, self.fresh / name)
            self._swap_day(name)
        shutil.rmtree(self.fresh, ignore_errors=True)

    def _recount(self, name: str, files: list[Path]) -> None:
        """Puts right what an interrupted build left uncounted in a day that stays."""
        counted = {key for key in self.num_rows if key.startswith(f"{name}/")}
        if counted != {f"{name}/{file.name}" for file in files}:
            for key in counted:
                del self.num_rows[key]
            self._count(self.place / name)

    def _part_that_stays(self, file: Path) -> str:
        """Whether all, some or none of the file's rows became known outside (after, until], by its name and its day."""
        found = _NAME.fullmatch(file.name)
        first, last = (int(found[1]), int(found[2])) if found else (FIRST_HOUR, OPEN_END)
        day = date.fromisoformat(file.parent.name.removeprefix("day=")).toordinal() - _EPOCH_DAY
        later_than, latest = published(first - 1), min(published(last), (day + 1) * 24 * US_PER_HOUR - 1)
        if day > self.first_day:
            later_than = max(later_than, day * 24 * US_PER_HOUR - 1)
        if latest <= self.after or (self.until is not None and later_than >= self.until):
            return "all"
        is_within = later_than >= self.after and (self.until is None or latest <= self.until)
        return "none" if is_within else "some"

    def _assemble(self, connection: duckdb.DuckDBPyConnection, name: str, stays: dict[Path, str]) -> None:
        day = self.fresh / name
        day.mkdir(exist_ok=True)
        for file, part in stays.items():
            if part == "all":
                os.link(file, day / file.name)
            elif part == "some":
                self._copy_rest(connection, file, day)

    def _copy_rest(self, connection: duckdb.DuckDBPyConnection, file: Path, day: Path) -> None:
        """The rows of a file that stays only in part; where everything later goes, its name ends before that."""
        found = _NAME.fullmatch(file.name)
        first, last = (int(found[1]), int(found[2])) if found else (FIRST_HOUR, OPEN_END)
        if self.until is None:
            last = min(last, last_published(self.after))
        names = (day / f"from{first}_to{last}_{number}.parquet" for number in itertools.count())
        target = next(name for name in names if not name.exists())
        until = "false" if self.until is None else f"epoch_us(known_at) > {self.until}"
        connection.execute(
            f"COPY (SELECT * FROM read_parquet('{quoted(file)}', hive_partitioning = false) "
            f"WHERE epoch_us(known_at) <= {self.after} OR {until}) "
            f"TO '{quoted(target)}' (FORMAT parquet, COMPRESSION zstd)"
        )
        if pq.read_metadata(target).num_rows == 0:
            target.unlink()

    def _merge(self, connection: duckdb.DuckDBPyConnection, day: Path) -> None:
        files = sorted(day.glob("*.parquet"))
        bounds = [(int(m[1]), int(m[2])) for m in (_NAME.fullmatch(f.name) for f in files) if m]
        merged = day / ".merged"
        connection.execute(
            f"COPY (SELECT * FROM read_parquet('{quoted(day)}/*.parquet', hive_partitioning = false)) "
            f"TO '{quoted(merged)}' (FORMAT parquet, COMPRESSION zstd)"
        )
        for file in files:
            file.unlink()
        merged.rename(day / f"from{min(f for f, _ in bounds)}_to{max(t for _, t in bounds)}.parquet")

    def _swap_day(self, name: str) -> None:
        fresh, old = self.fresh / name, self.place / name
        linked = {file.name for file in fresh.glob("*.parquet") if file.stat().st_nlink > 1}
        for key in [k for k in self.num_rows if k.startswith(f"{name}/") and k.split("/")[1] not in linked]:
            del self.num_rows[key]
        if any(fresh.iterdir()):
            self._count(fresh)
            replace_folder(fresh, old)
        elif old.exists():
            old.rename(self.fresh / f"{name}.gone")
            sync_folder(self.place)

    def _count(self, day: Path) -> None:
        for file in sorted(day.glob("*.parquet")):
            if file.stat().st_nlink > 1 and f"{day.name}/{file.name}" in self.num_rows:
                continue
            sync_file(file)
            footer = pq.read_metadata(file)
            self.num_rows[f"{day.name}/{file.name}"] = footer.num_rows
            self.last_event = _latest(self.last_event, footer, "event_at")
            self.last_known = _latest(self.last_known, footer, "known_at")


def sync_file(path: Path) -> None:
    """Makes the file's bytes survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _day_name(day: int) -> str:
    return datetime.fromtimestamp(day * 86_400, UTC).strftime("%Y-%m-%d")


def _latest(known: datetime | None, footer: pq.FileMetaData, column: str) -> datetime | None:
    """The latest instant in the column, of the file and of what is known, read from the footer's statistics."""
    place = footer.schema.to_arrow_schema().names.index(column) - len(footer.schema.to_arrow_schema().names)
    groups = [footer.row_group(i).column(footer.num_columns + place) for i in range(footer.num_row_groups)]
    found = [g.statistics.max for g in groups if g.statistics is not None and g.statistics.has_min_max]
    return max([*found, *([known] if known else [])], default=None)
