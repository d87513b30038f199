"""What a build leaves for the next one: which files of the log it saw, and the state its sums continue from.

data/feature_state/
  record.json                      BuildRecord, written last: what it does not name does not exist
  <table>/as_of_<hour>-<n>.parquet  a base (all keys) or what changed since the file before it
"""

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from core.files import write_atomically
from core.workspace import Workspace
from feature_repo.building.log_index import LogFile, LogIndex
from feature_repo.building.partitions import sync_file
from feature_repo.building.pipelines import Group, StateTable
from feature_repo.building.sql import quoted

MAX_CHECKPOINTS = 24
"""Checkpoints on a base before a new base is written, so that what a build reads stays bounded."""


@dataclass(frozen=True)
class Checkpoint:
    """State as of an hour: each changed table's file, continuing the checkpoint before it unless it `is_base`."""

    as_of: int
    is_base: bool
    files: dict[str, str]


@dataclass
class BuildRecord:
    """What the tables hold. `rows` counts those of each partition file by view."""

    recipe: str
    revision: int
    first_day: int
    data_end: int
    last_hour: int
    has_observed_kinds: bool = False
    logs: LogIndex = field(default_factory=dict)
    checkpoints: dict[Group, list[Checkpoint]] = field(default_factory=lambda: {"hourly": [], "profile": []})
    rows: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def generation(self) -> str:
        """Identity of the values: the recipe, and how often earlier rows were computed anew from other events."""
        return f"{self.recipe}.{self.revision}" if self.revision else self.recipe

    def as_of(self, group: Group) -> int | None:
        """The hour after which the next build continues."""
        return self.checkpoints[group][-1].as_of if self.checkpoints[group] else None


def state_folder(workspace: Workspace) -> Path:
    return workspace.data / "feature_state"


def read_record(workspace: Workspace) -> BuildRecord | None:
    """What the last finished build left, None where nothing usable is there: then a build starts from nothing."""
    path = state_folder(workspace) / "record.json"
    try:
        fields = json.loads(path.read_text())
        fields["logs"] = {t: {n: LogFile(*f) for n, f in files.items()} for t, files in fields["logs"].items()}
        fields["checkpoints"] = {g: [Checkpoint(**c) for c in found] for g, found in fields["checkpoints"].items()}
        record = BuildRecord(**fields)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    places = [
        state_folder(workspace) / t / n
        for found in record.checkpoints.values()
        for c in found
        for t, n in c.files.items()
    ]
    return record if all(place.exists() for place in places) else None


def write_record(workspace: Workspace, record: BuildRecord) -> None:
    """Makes the record the truth and removes state files that it does not name."""
    fields = dict(vars(record))
    fields["logs"] = {t: {n: list(vars(f).values()) for n, f in files.items()} for t, files in record.logs.items()}
    fields["checkpoints"] = {group: [vars(c) for c in found] for group, found in record.checkpoints.items()}
    folder = state_folder(workspace)
    write_atomically(folder / "record.json", json.dumps(fields))
    named = {folder / t / n for found in record.checkpoints.values() for c in found for t, n in c.files.items()}
    for path in folder.glob("*/*.parquet"):
        if path not in named:
            path.unlink()


def usable_checkpoints(checkpoints: list[Checkpoint], hour: int) -> list[Checkpoint]:
    """The checkpoints that together are the newest state as of `hour` or before: a base and what follows it."""
    reached = [c for c in checkpoints if c.as_of <= hour]
    bases = [place for place, checkpoint in enumerate(reached) if checkpoint.is_base]
    return reached[bases[-1] :] if bases else []


def kept_checkpoints(checkpoints: list[Checkpoint]) -> list[Checkpoint]:
    """The checkpoints from the last base but one on, so that right after a base there is still a way back."""
    bases = [place for place, checkpoint in enumerate(checkpoints) if checkpoint.is_base]
    return checkpoints[bases[-2] :] if len(bases) > 1 else checkpoints


class StoredState:
    """One state table inside DuckDB, as `stored_<name>`: a view over its files, or a table that steps write to."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, table: StateTable, files: list[Path], is_table: bool
    ) -> None:
        self._connection = connection
        self.table = table
        self.is_table = is_table or not files
        self.name = f"stored_{table.name}"
        forget(connection, self.name)
        names = ", ".join(f"'{quoted(file)}'" for file in files)
        source = f"SELECT * FROM read_parquet([{names}])" if files else ""
        if not files:
            connection.execute(f"CREATE TEMP TABLE {self.name} ({table.columns})")
        elif is_table:
            connection.execute(f"CREATE TEMP TABLE {self.name} AS {source} QUALIFY {table.ranked}")
        else:
            connection.execute(f"CREATE TEMP VIEW {self.name} AS {source}")

    def write_change(self, query: str, path: Path) -> int:
        """Rows that a step changed, written to a file of their own."""
        return self._copy(query, path)

    def apply(self, change: str) -> None:
        """Takes the rows of the table `change` over those of the same keys."""
        if self.table.limit is None:
            keys = ", ".join(self.table.key)
            self._connection.execute(f"DELETE FROM {self.name} WHERE ({keys}) IN (SELECT ({keys}) FROM {change})")
        self._connection.execute(f"INSERT INTO {self.name} BY NAME SELECT * FROM {change}")

    def write_base(self, path: Path) -> None:
        """Writes all that holds."""
        kept = "" if self.table.limit is None else f" QUALIFY {self.table.ranked}"
        self._copy(f"SELECT * FROM {self.name}{kept}", path)

    def _copy(self, query: str, path: Path) -> int:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written once and read by every hour until the next base: unpacking would cost more than the bytes do.
        copy = f"COPY ({query}) TO '{quoted(path)}' (FORMAT parquet, COMPRESSION uncompressed)"
        num_rows: int = self._connection.execute(copy).fetchall()[0][0]
        sync_file(path)
        return num_rows


def forget(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Drops the view or table, where there is one: DuckDB replaces neither by the other."""
    for kind in ("VIEW", "TABLE"):
        with contextlib.suppress(duckdb.CatalogException):
            connection.execute(f"DROP {kind} IF EXISTS {name}")
