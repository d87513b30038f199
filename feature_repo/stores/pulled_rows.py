"""What materialisation and saved datasets read of one feature table: a span of time, whole or the latest per key."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import duckdb
import pyarrow as pa
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL

from feature_repo.stores.duckdb_engine import identifier, literal
from feature_repo.stores.feature_table import FeatureTable

PULLED_ROWS = 250_000
"""Rows at a time where the reader does not say."""


@dataclass(frozen=True)
class LatestQuery:
    """The latest row per key among those that became available in a span of time."""

    table: FeatureTable
    keys: Sequence[str]
    """Empty for a view without entities: one row."""
    features: Sequence[str]
    start: datetime
    end: datetime

    def tables(self, connection: duckdb.DuckDBPyConnection, num_rows: int | None = None) -> Iterator[pa.Table]:
        """The rows `num_rows` at a time, in no stated order."""
        keys = ", ".join(f"k{i}" for i in range(len(self.keys)))
        within = f"PARTITION BY {keys} " if keys else ""
        connection.execute(
            f"""CREATE OR REPLACE TEMP TABLE winners AS
            SELECT row_id FROM {self.table.instants(connection, self.keys)}
            WHERE {_between(self.start, self.end)}
            QUALIFY row_number() OVER ({within}ORDER BY event DESC, known DESC, row_id DESC) = 1"""
        )
        columns = list(dict.fromkeys([*self.keys, *self.features, *self.table.time_columns()]))
        rows = self.table.rows(connection, columns, "winners")
        yield from _streamed(connection, _with_key(rows, self.keys), num_rows)


@dataclass(frozen=True)
class AllQuery:
    """Every row that became available in a span of time, open where an end is None."""

    table: FeatureTable
    keys: Sequence[str]
    features: Sequence[str]
    start: datetime | None
    end: datetime | None

    def tables(self, connection: duckdb.DuckDBPyConnection, num_rows: int | None = None) -> Iterator[pa.Table]:
        """The rows `num_rows` at a time, in no stated order."""
        columns = list(dict.fromkeys([*self.keys, *self.features, *self.table.time_columns()]))
        kept = ", ".join(f"k{i} AS {identifier(c)}" for i, c in enumerate(columns))
        rows = f"SELECT {kept} FROM {self.table.instants(connection, columns)} WHERE {_between(self.start, self.end)}"
        yield from _streamed(connection, _with_key(rows, self.keys), num_rows)


def _with_key(rows: str, keys: Sequence[str]) -> str:
    """`rows`, with the placeholder key that Feast expects of rows without any."""
    return rows if keys else f"SELECT {literal(DUMMY_ENTITY_VAL)} AS {DUMMY_ENTITY_ID}, * FROM ({rows})"


def _streamed(connection: duckdb.DuckDBPyConnection, query: str, num_rows: int | None) -> Iterator[pa.Table]:
    reader = connection.sql(query).to_arrow_reader(num_rows or PULLED_ROWS)
    yield reader.schema.empty_table()  # says the columns where there is no row
    for batch in reader:
        yield pa.Table.from_batches([batch])


def _between(start: datetime | None, end: datetime | None) -> str:
    since = f"available >= {_micros(start)}" if start else "true"
    until = f"available <= {_micros(end)}" if end else "true"
    return f"{since} AND {until}"


def _micros(at: datetime) -> int:
    aware = at if at.tzinfo else at.replace(tzinfo=UTC)
    return (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
