"""A feature table on disk: Parquet files, an event time, and the known time from which a row may be used."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from core.errors import InputError
from feature_repo.stores.duckdb_engine import columns_of, fact_micros, identifier, literal

ROW_BITS = 40
"""Low bits of a row id that hold the row's place in its file; the file's place stands above."""


@dataclass(frozen=True)
class FeatureTable:
    """Parquet files of one schema. Without a known column a row is known at its event time."""

    name: str
    glob: str
    event_column: str
    known_column: str | None = None

    def instants(self, connection: duckdb.DuckDBPyConnection, columns: Sequence[str]) -> str:
        """SQL for the table's rows as `columns` (named k0, k1, ...), event, known, available and row_id.

        Instants are microseconds. A row without event or known time is left out: nothing says when it held.
        Raises InputError when the files lack a column.
        """
        types = self.types(connection, [*columns, *self.time_columns()])
        event = fact_micros(identifier(self.event_column), types[self.event_column])
        known = fact_micros(identifier(self.known_column), types[self.known_column]) if self.known_column else event
        chosen = "".join(f"{identifier(c)} AS k{i}, " for i, c in enumerate(columns))
        return (
            f"(SELECT *, greatest(event, known) AS available FROM "
            f"(SELECT {chosen}{event} AS event, {known} AS known, {_ROW_ID} AS row_id FROM {self.files()}) "
            "WHERE event IS NOT NULL AND known IS NOT NULL)"
        )

    def rows(
        self, connection: duckdb.DuckDBPyConnection, columns: Sequence[str], chosen: str, first: Sequence[str] = ()
    ) -> str:
        """SQL for the rows whose row_id is in table `chosen`: columns `first` of that, then `columns` of the files."""
        self.types(connection, columns)
        wanted = [*(f"{chosen}.{c}" for c in first), *(f"files.{identifier(c)}" for c in columns)]
        return f"SELECT {', '.join(wanted)} FROM {self.files()} AS files JOIN {chosen} ON {chosen}.row_id = {_ROW_ID}"

    def schema(self, connection: duckdb.DuckDBPyConnection, columns: Iterable[str]) -> pa.Schema:
        """Arrow types of `columns`. Raises InputError when one of them is not there."""
        wanted = list(dict.fromkeys(columns))
        self.types(connection, wanted)
        return (
            connection.sql(f"SELECT {', '.join(map(identifier, wanted))} FROM {self.files()} LIMIT 0")
            .to_arrow_table()
            .schema
        )

    def types(self, connection: duckdb.DuckDBPyConnection, columns: Iterable[str]) -> dict[str, str]:
        """DuckDB's type by column of the table. Raises InputError when one of `columns` is not there."""
        found = columns_of(connection, self.files())
        missing = sorted(set(columns) - set(found))
        if missing:
            raise InputError(
                f"feature table {self.name} at {self.glob} has no column {', '.join(missing)}; it has "
                f"{', '.join(found)}: correct the source's field mapping, time columns or the view's schema"
            )
        return found

    def time_columns(self) -> list[str]:
        return [c for c in (self.event_column, self.known_column) if c]

    def files(self) -> str:
        return f"read_parquet({literal(self.glob)}, hive_partitioning = false)"


_ROW_ID = f"((file_index::BIGINT << {ROW_BITS}) + file_row_number)"
