"""Point-in-time queries over feature tables on disk, in DuckDB.

A feature row can be used from `available_at = max(event time, known time)`. Of the rows available at
t, the latest by (event time, known time) counts. A row that is not the latest on the day it becomes
available never will be, since later rows only push it further down; without such rows the answer is
the last row with available_at <= t, one ASOF join. The time to live is checked on the winner alone:
every other row is older.

The join runs on keys and instants; features are read afterwards for the winners only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import duckdb
import pandas as pd
import pyarrow as pa
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df


@dataclass(frozen=True)
class ParquetTable:
    """A feature table on disk and its two time columns."""

    glob: str
    event_column: str
    known_column: str | None

    def rows(self) -> str:
        """SQL for the table's rows with their place (`file_index`, `file_row_number`) and instants."""
        event = f'"{self.event_column}"::TIMESTAMPTZ'
        known = f'"{self.known_column}"::TIMESTAMPTZ' if self.known_column else event
        return (
            f"(SELECT *, file_index AS _file, file_row_number AS _row, {event} AS _event_at, {known} AS _known_at, "
            f"greatest({event}, {known}) AS _available_at FROM read_parquet('{_quoted(self.glob)}', "
            f"hive_partitioning = false) WHERE {event} IS NOT NULL AND {known} IS NOT NULL)"
        )

    def features(self, connection: duckdb.DuckDBPyConnection, columns: Sequence[str], winners: str) -> pa.Table:
        """`columns` of the rows named by table `winners` (_file, _row, _place), ordered by _place."""
        wanted = ", ".join(f'rows."{c}"' for c in columns)
        table = connection.sql(
            f"SELECT _place, {wanted} FROM {self.rows()} AS rows JOIN {winners} AS winners USING (_file, _row)"
        ).to_arrow_table()
        return table.sort_by("_place").drop_columns(["_place"])


@dataclass(frozen=True)
class ViewJoin:
    """One view of a point-in-time join: its table, keys (table column to entity column) and outputs."""

    table: ParquetTable
    keys: dict[str, str]
    outputs: dict[str, str]
    """Column of the table by name in the result."""
    ttl: timedelta | None


@dataclass(frozen=True)
class PointInTimeQuery:
    """Entity rows with every view's row as known at the row's instant."""

    entity_rows: pd.DataFrame | pa.Table | str
    joins: Sequence[ViewJoin]

    def key_names(self) -> list[str]:
        return sorted({k for join in self.joins for k in join.keys.values()})

    def run(self, connection: duckdb.DuckDBPyConnection) -> pa.Table:
        entities = self._entities(connection)
        at_column = infer_event_timestamp_from_entity_df(dict(entities.schema.empty_table().to_pandas().dtypes))
        numbered = entities.select(list(dict.fromkeys([at_column, *self.key_names()])))
        numbered = numbered.append_column("_number", pa.array(range(entities.num_rows), pa.int64()))
        connection.register("entity_rows", numbered)
        result = entities
        for join in self.joins:
            for name, values in self._joined(connection, join, at_column).items():
                result = result.append_column(name, values)
        return result

    def _entities(self, connection: duckdb.DuckDBPyConnection) -> pa.Table:
        if isinstance(self.entity_rows, str):
            return connection.sql(self.entity_rows).to_arrow_table()
        if isinstance(self.entity_rows, pd.DataFrame):
            return pa.Table.from_pandas(self.entity_rows, preserve_index=False)
        return self.entity_rows

    def _joined(
        self, connection: duckdb.DuckDBPyConnection, join: ViewJoin, at_column: str
    ) -> dict[str, pa.ChunkedArray]:
        keys = ", ".join(f'"{k}"' for k in join.keys)
        on = " AND ".join(f'e."{entity}" = h."{key}"' for key, entity in join.keys.items())
        at = f'e."{at_column}"::TIMESTAMPTZ'
        alive = f"h._event_at >= {at} - INTERVAL {round(join.ttl.total_seconds())} SECOND" if join.ttl else "true"
        connection.execute(
            f"""CREATE OR REPLACE TEMP TABLE history AS
            SELECT {keys}, _available_at, _event_at, _file, _row
            FROM {join.table.rows()}
            QUALIFY _event_at >= max(_event_at) OVER (
                PARTITION BY {keys} ORDER BY _available_at, _event_at, _known_at ROWS UNBOUNDED PRECEDING
            ) AND row_number() OVER (PARTITION BY {keys}, _available_at ORDER BY _event_at DESC, _known_at DESC) = 1"""
        )
        connection.execute(
            f"""CREATE OR REPLACE TEMP TABLE matches AS
            SELECT e._number, h._file, h._row
            FROM entity_rows e ASOF JOIN history h ON {on} AND {at} >= h._available_at
            WHERE {alive}"""
        )
        connection.execute(
            """CREATE OR REPLACE TEMP TABLE winners AS
            SELECT _file, _row, row_number() OVER () - 1 AS _place FROM (SELECT DISTINCT _file, _row FROM matches)"""
        )
        places = connection.sql(
            """SELECT _place FROM entity_rows LEFT JOIN (matches JOIN winners USING (_file, _row)) USING (_number)
            ORDER BY _number"""
        ).to_arrow_table()
        features = join.table.features(connection, list(dict.fromkeys(join.outputs.values())), "winners")
        indices = places.column("_place").combine_chunks()
        return {name: features.column(column).take(indices) for name, column in join.outputs.items()}


@dataclass(frozen=True)
class LatestQuery:
    """The latest row per key among those that became available in a span of time."""

    table: ParquetTable
    keys: Sequence[str]
    features: Sequence[str]
    start: datetime
    end: datetime

    def run(self, connection: duckdb.DuckDBPyConnection) -> pa.Table:
        keys = ", ".join(f'"{k}"' for k in self.keys)
        connection.execute(
            f"""CREATE OR REPLACE TEMP TABLE winners AS
            SELECT _file, _row, row_number() OVER () - 1 AS _place FROM (
                SELECT _file, _row FROM {self.table.rows()}
                WHERE _available_at BETWEEN {_instant(self.start)} AND {_instant(self.end)}
                QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY _event_at DESC, _known_at DESC) = 1
            )"""
        )
        times = [c for c in (self.table.event_column, self.table.known_column) if c]
        return self.table.features(connection, [*self.keys, *self.features, *times], "winners")


@dataclass(frozen=True)
class AllQuery:
    """Every row that became available in a span of time."""

    table: ParquetTable
    columns: Sequence[str]
    start: datetime | None
    end: datetime | None

    def run(self, connection: duckdb.DuckDBPyConnection) -> pa.Table:
        times = [c for c in (self.table.event_column, self.table.known_column) if c]
        columns = ", ".join(f'"{c}"' for c in [*self.columns, *times])
        since = f"_available_at >= {_instant(self.start)}" if self.start else "true"
        until = f"_available_at <= {_instant(self.end)}" if self.end else "true"
        return connection.sql(f"SELECT {columns} FROM {self.table.rows()} WHERE {since} AND {until}").to_arrow_table()


def _instant(at: datetime) -> str:
    aware = at if at.tzinfo else at.replace(tzinfo=UTC)
    return f"make_timestamptz({round(aware.timestamp() * 1_000_000)})"


def _quoted(path: str) -> str:
    return path.replace("'", "''")
