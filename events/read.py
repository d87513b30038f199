"""The reading side of the log: DuckDB views over its Parquet files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from core.schema import TABLES, TableSchema
from core.settings import Settings
from events.log import table_schema

LATEST_BY = {
    "users": ("user_id",),
    "creators": ("creator_id",),
    "posts": ("post_id",),
    "follows": ("user_id", "creator_id"),
}
"""Tables in which a later row overrules an earlier one, and the entity each row is about."""


def connect(settings: Settings) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB in UTC, within the settings' threads and memory, spilling inside the workspace."""
    spill = settings.workspace.root / "tmp"
    connection = duckdb.connect(
        ":memory:",
        config={
            "threads": settings.num_threads,
            "memory_limit": settings.duckdb_memory,
            "temp_directory": str(spill),
            "preserve_insertion_order": False,
        },
    )
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def register_log(
    connection: duckdb.DuckDBPyConnection,
    log_root: Path,
    files: Mapping[str, Sequence[Path]] | None = None,
    *,
    is_named: bool = False,
) -> None:
    """Creates one view per table of the log; a table without files is an empty view of the same types.

    One row per key: the log admits no second one. Views list the files anew at each query, unless
    `files` names those of each table to read; then only its tables become views, and where `is_named`
    they have the path of each row's file as `filename` besides.
    """
    if files is not None:
        for table, paths in files.items():
            columns = _select(table_schema(table), list(paths), ", filename" if is_named else "")
            connection.execute(f"CREATE OR REPLACE VIEW {table} AS {columns}")
        return
    for schema in TABLES.values():
        pattern = log_root / schema.name / "day=*" / "*.parquet"
        found = [pattern] if any((log_root / schema.name).glob("day=*/*.parquet")) else []
        connection.execute(f"CREATE OR REPLACE VIEW {schema.name} AS {_select(schema, found)}")


def latest(connection: duckdb.DuckDBPyConnection, table: str) -> str:
    """The name of a new view `<table>_latest` with the last row of each user, creator, post or follow."""
    if table not in LATEST_BY:
        raise ValueError(f"table {table!r} has no latest row; there are {', '.join(LATEST_BY)}")
    tie = "known_at DESC" + (", event_id DESC" if "event_id" in table_schema(table).key else "")
    connection.execute(
        f"CREATE OR REPLACE VIEW {table}_latest AS SELECT * FROM {table} QUALIFY row_number() OVER "
        f"(PARTITION BY {', '.join(LATEST_BY[table])} ORDER BY event_at DESC, {tie}) = 1"
    )
    return f"{table}_latest"


def _select(schema: TableSchema, files: Sequence[Path], extra: str = "") -> str:
    """SQL that reads the files (or patterns) with the table's declared types."""
    if files:
        columns = ", ".join(f"{c.name}::{sql_type(c.type)} AS {c.name}" for c in schema.columns)
        names = ", ".join("'" + str(file).replace("'", "''") + "'" for file in files)
        option = ", filename = true" if extra else ""
        return f"SELECT {columns}{extra} FROM read_parquet([{names}], hive_partitioning = false{option})"
    columns = ", ".join(f"NULL::{sql_type(c.type)} AS {c.name}" for c in schema.columns)
    return f"SELECT {columns} WHERE false"


def sql_type(arrow: pa.DataType) -> str:
    """DuckDB's name of an Arrow type that the log uses."""
    if pa.types.is_list(arrow) or pa.types.is_fixed_size_list(arrow):
        return f"{sql_type(arrow.value_type)}[]"
    names = {
        pa.int64(): "BIGINT",
        pa.int32(): "INTEGER",
        pa.float32(): "FLOAT",
        pa.bool_(): "BOOLEAN",
        pa.string(): "VARCHAR",
    }
    return "TIMESTAMPTZ" if pa.types.is_timestamp(arrow) else names[arrow]
