"""Rows put before a suite: a pandas frame and the address of each row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from validation.rules import Suite
from validation.suspects import suspect_sql
from validation.tables import MISSING, Table

_PANDAS_TYPES = {pa.bool_(): pd.BooleanDtype()}


@dataclass(frozen=True)
class Subject:
    """The judged rows of a table. `addresses` [N, 2] belongs to `frame` row by row; `num_rows` counts the table."""

    table: Table
    frame: pd.DataFrame
    addresses: NDArray[np.int64]
    num_rows: int


def subject(connection: duckdb.DuckDBPyConnection, table: Table, suite: Suite, sql: str, max_rows: int) -> Subject:
    """The rows that `sql` yields of `table`; above `max_rows`, every suspect and an even sample of about that many."""
    num_rows = table.num_rows
    if num_rows > max_rows:
        suspects = " OR ".join(suspect_sql(rule) for rule in suite.of_level("row"))
        every = -(-num_rows // max_rows)
        sql = f"SELECT * FROM ({sql}) WHERE {suspects} OR hash(file_index, file_row_number) % {every} = 0"
    rows = connection.sql(sql).to_arrow_table()
    addresses = np.stack([rows[name].to_numpy().astype(np.int64) for name in ("file_index", "file_row_number")], axis=1)
    return Subject(table, pandas_frame(rows.select(list(suite.columns()))), addresses, num_rows)


def number_copies(connection: duckdb.DuckDBPyConnection, table: Table, key: tuple[str, ...]) -> bool:
    """Whether keys repeat; if so `copies` numbers their rows in order of known time.

    `copies` has file_index, file_row_number and occurrence, from 1.
    """
    keys = ", ".join(key)
    found = connection.execute(f"SELECT count(*), count(DISTINCT hash({keys})) FROM {table.source_sql}").fetchall()[0]
    if found[0] == found[1]:
        return False
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE copies AS
        WITH raw AS (SELECT {keys}, known_at AS came_at, file_index, file_row_number FROM {table.source_sql}),
        repeated AS (SELECT {keys} FROM raw GROUP BY ALL HAVING count(*) > 1)
        SELECT file_index, file_row_number,
               row_number() OVER (PARTITION BY {keys} ORDER BY came_at, file_index, file_row_number) AS occurrence
        FROM raw SEMI JOIN repeated USING ({keys})
    """)
    return True


def no_rows(table: Table, suite: Suite) -> Subject:
    """A table without files."""
    frame = pd.DataFrame({name: pd.Series(dtype="float64") for name in suite.columns()})
    return Subject(table, frame, np.zeros((0, 2), dtype=np.int64), 0)


def pandas_frame(rows: pa.Table) -> pd.DataFrame:
    """The rows in types that Great Expectations compares as a whole: 64-bit numbers, categories, nullable booleans."""
    for place, name in enumerate(rows.column_names):
        kind = rows[name].type
        if pa.types.is_string(kind):
            rows = rows.set_column(place, name, rows[name].dictionary_encode())
        elif pa.types.is_floating(kind) or pa.types.is_integer(kind):
            wide = pa.float64() if pa.types.is_floating(kind) else pa.int64()
            rows = rows.set_column(place, name, rows[name].cast(wide))
    frame: pd.DataFrame = rows.to_pandas(types_mapper=_PANDAS_TYPES.get)
    return frame


def columns_frame(declared: Sequence[tuple[Table, Mapping[str, str]]]) -> pd.DataFrame:
    """One row per declared column: `column` as `<table>.<column>`, its `declared` type, and what was `found`."""
    rows: list[tuple[str, str, str]] = []
    for table, types in declared:
        files = table.column_types()
        for column, kind in types.items():
            found = [file.get(column, MISSING) for file in files]
            odd = [kind_found for kind_found in found if kind_found != kind]
            text = f"{odd[0]} in {len(odd)} of {len(found)} files" if odd else kind
            rows.append((f"{table.name}.{column}", kind, text))
    return pd.DataFrame(rows, columns=["column", "declared", "found"])
