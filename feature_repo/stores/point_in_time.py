"""The point-in-time join over feature tables on disk, in DuckDB.

A feature row can be used from `available = max(event time, known time)`. Of the rows available at t, the
latest by (event time, known time, place in the files) counts. A row that is not the latest on the day it
becomes available never will be, since later rows only push it further down; without such rows the answer
is the last row with available <= t, one ASOF join. The time to live is checked on the winner alone: every
other row is older.

The join runs on keys and instants; features are read afterwards for the winners only, each once, and laid
out by number. Two views are joined at a time, each on a connection of its own, so that one's work on one thread
falls beside the other's. Entity rows are joined a range at a time, so that a result may be larger than memory.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from core.errors import InputError
from feature_repo.stores.duckdb_engine import (
    another,
    columns_of,
    identifier,
    memory_bytes,
    num_threads,
    request_micros,
    row_bytes,
)
from feature_repo.stores.entity_rows import EntityRows
from feature_repo.stores.feature_table import FeatureTable
from feature_repo.stores.side_by_side import side_by_side

Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]

RANGE_SHARE = 0.125
"""Part of the memory limit that one range of result rows may take."""
MIN_RANGE_ROWS, MAX_RANGE_ROWS = 20_000, 4_000_000
VIEWS_AT_ONCE = 2
"""At most; one where DuckDB has one thread. Each more takes memory for its sorts and columns."""


@dataclass(frozen=True)
class ViewJoin:
    """One view of a point-in-time join: its table, keys (table column to entity column) and outputs."""

    table: FeatureTable
    keys: dict[str, str]
    """Empty for a view without entities, whose rows are for everyone."""
    outputs: dict[str, str]
    """Column of the table by name in the result."""
    ttl: timedelta | None

    def columns(
        self, num_rows: int, is_first: bool, is_last: bool, connection: duckdb.DuckDBPyConnection
    ) -> dict[str, pa.Array]:
        """Features by output name for entity rows 0 to `num_rows`, which table `entity_rows` holds.

        The first range of a query prepares the history on `connection`, the last one drops it.
        """
        if is_first:
            self._prepare(connection)
        matches = self._matches(connection)
        if is_last:
            connection.execute("DROP TABLE history")
        row_ids, winner = _winners(matches, num_rows)
        del matches
        return self._laid_out(connection, row_ids, winner)

    def _prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Makes temporary table `history` of the rows that are ever the latest available one of their key."""
        keys = [f"k{i}" for i in range(len(self.keys))]
        within = f"PARTITION BY {', '.join(keys)} " if keys else ""
        connection.execute(
            f"""CREATE TEMP TABLE history AS
            SELECT {", ".join([*keys, "available", "event", "row_id"])}
            FROM {self.table.instants(connection, list(self.keys))}
            WINDOW in_order AS ({within}ORDER BY available, event, known, row_id)
            QUALIFY event >= max(event) OVER (in_order ROWS UNBOUNDED PRECEDING)
                AND lead(available) OVER in_order IS DISTINCT FROM available"""
        )

    def _matches(self, connection: duckdb.DuckDBPyConnection) -> pa.Table:
        """_number of each entity row that has a winner, and that one's place in the history and row_id."""
        match = [f"e.{identifier(entity)} = h.k{i}" for i, entity in enumerate(self.keys.values())]
        on = " AND ".join([*match, "e._at >= h.available"])
        alive = f"h.event >= e._at - {self.ttl // timedelta(microseconds=1)}" if self.ttl else "true"
        return connection.sql(
            f"SELECT _number, h.rowid AS place, row_id FROM entity_rows e ASOF JOIN history h ON {on} WHERE {alive}"
        ).to_arrow_table()

    def _laid_out(self, connection: duckdb.DuckDBPyConnection, row_ids: Int64s, winner: Int32s) -> dict[str, pa.Array]:
        """Features by output name: of the rows `row_ids` [W], for each entity row its `winner` [R], from 1 on or 0."""
        columns = list(dict.fromkeys(self.outputs.values()))
        places = np.arange(1, len(row_ids) + 1, dtype=np.int32)
        connection.register("winners", pa.table({"row_id": row_ids, "_place": places}))
        # Read by position: a feature may be called like one of our columns.
        rows = connection.sql(self.table.rows(connection, columns, "winners", ["_place"])).to_arrow_table()
        connection.unregister("winners")
        position = np.zeros(len(row_ids) + 1, np.int32)
        position[rows.column(0).to_numpy()] = places - 1
        taken = pa.array(position[winner], mask=winner == 0)
        place_of = {column: number + 1 for number, column in enumerate(columns)}
        return {name: _take(rows.column(place_of[column]), taken) for name, column in self.outputs.items()}


def _take(values: pa.ChunkedArray, taken: pa.Array) -> pa.Array:
    """`values` at `taken`. Arrow's own pool costs the processor twice as much for memory of this size."""
    pool = pa.system_memory_pool()
    return pc.take(values.combine_chunks(memory_pool=pool), taken, memory_pool=pool)


def _winners(matches: pa.Table, num_rows: int) -> tuple[Int64s, Int32s]:
    """Row ids of the distinct winners [W], and for entity rows 0 to `num_rows` the place of theirs from 1 on, or 0 [R].

    By arrays over places in the history: a third of the time of DISTINCT and a join in DuckDB.
    """
    places = matches["place"].to_numpy()
    row_id_of = np.full(places.max(initial=-1) + 1, -1, np.int64)
    row_id_of[places] = matches["row_id"].to_numpy()
    is_winner = row_id_of >= 0
    winner = np.zeros(num_rows, np.int32)
    winner[matches["_number"].to_numpy()] = np.cumsum(is_winner, dtype=np.int32)[places]
    return row_id_of[is_winner], winner


@dataclass(frozen=True)
class PointInTimeQuery:
    """Entity rows, all columns and order kept, with every view's row as known at the row's instant."""

    entities: EntityRows
    joins: Sequence[ViewJoin]
    request_columns: Sequence[str] = ()
    """Further columns that must be among the entity rows, for on-demand views."""

    def key_names(self) -> list[str]:
        return sorted({k for join in self.joins for k in join.keys.values()})

    def tables(self, connection: duckdb.DuckDBPyConnection, num_rows: int | None = None) -> Iterator[pa.Table]:
        """The result in order, a range of rows at a time: `num_rows`, or as many as the memory limit suggests.

        Raises InputError when columns are missing or would stand twice.
        """
        schema = self.entities.schema(connection)
        at = self.entities.at_column(connection)
        self._check_columns(schema.names)
        ranges = self.entities.ranges(connection, num_rows or self._range_rows(connection, schema))
        chunk: pa.Table | None = next(ranges)
        is_first = True
        with ThreadPoolExecutor(min(VIEWS_AT_ONCE, num_threads(connection))) as pool, ExitStack() as stack:
            cursors = [stack.enter_context(another(connection)) for _ in self.joins]
            while chunk is not None:
                following = next(ranges, None)
                _load(connection, chunk, at, self.key_names())
                calls = [partial(j.columns, chunk.num_rows, is_first, following is None) for j in self.joins]
                for columns in side_by_side(pool, calls, cursors):
                    for name, values in columns.items():
                        chunk = chunk.append_column(name, values)
                is_first = False
                yield chunk
                chunk = following

    def _range_rows(self, connection: duckdb.DuckDBPyConnection, schema: pa.Schema) -> int:
        width = row_bytes(schema) + sum(row_bytes(j.table.schema(connection, j.outputs.values())) for j in self.joins)
        rows = int(memory_bytes(connection) * RANGE_SHARE / width)
        return min(max(rows, MIN_RANGE_ROWS), MAX_RANGE_ROWS)

    def _check_columns(self, present: Sequence[str]) -> None:
        missing = sorted({*self.key_names(), *self.request_columns} - set(present))
        if missing:
            raise InputError(
                f"entity rows with columns {', '.join(present)} lack {', '.join(missing)}; expected every join key "
                "of the requested views, and the request data of their on-demand views"
            )
        named = [*present, *(name for join in self.joins for name in join.outputs)]
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice:
            raise InputError(
                f"the result would have two columns {', '.join(twice)}; rename them in the entity rows, or ask for "
                "full_feature_names"
            )


def _load(connection: duckdb.DuckDBPyConnection, chunk: pa.Table, at: str, keys: Sequence[str]) -> None:
    """Makes temporary table `entity_rows` with the keys, _at (microseconds) and _number of each row."""
    wanted = chunk.select(list(dict.fromkeys([at, *keys])))
    connection.register(
        "entity_chunk", wanted.append_column("_number", pa.array(np.arange(chunk.num_rows, dtype=np.int32)))
    )
    micros = request_micros(identifier(at), columns_of(connection, "entity_chunk")[at])
    chosen = "".join(f"{identifier(k)}, " for k in keys)
    connection.execute(
        f"CREATE OR REPLACE TABLE entity_rows AS SELECT {chosen}{micros} AS _at, _number FROM entity_chunk"
    )
    connection.unregister("entity_chunk")
