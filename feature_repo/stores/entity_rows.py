"""The left side of a point-in-time join: a frame, an Arrow table, Parquet files or SQL, read a range at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import duckdb
import pandas as pd
import pyarrow as pa
from feast.errors import EntityTimestampInferenceException
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df

from core.errors import InputError
from feature_repo.stores.duckdb_engine import another, columns_of, literal, request_micros

EntityFrame: TypeAlias = pd.DataFrame | pa.Table | str | Path


@dataclass(frozen=True)
class EntityRows:
    """Rows to join features to. A string that names Parquet files is a path, below `folder` if relative; else SQL."""

    frame: EntityFrame
    folder: Path

    @cached_property
    def table(self) -> pa.Table | None:
        """The rows, where they are in memory already."""
        if isinstance(self.frame, pa.Table):
            return self.frame
        if not isinstance(self.frame, pd.DataFrame):
            return None
        try:
            return pa.Table.from_pandas(self.frame, preserve_index=False)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise InputError(
                f"the entity frame does not convert to Arrow ({error}); give every column one type, "
                "and text or a time zone where it is meant"
            ) from error

    def schema(self, connection: duckdb.DuckDBPyConnection) -> pa.Schema:
        """Names and Arrow types of the rows' columns. Raises InputError when the rows cannot be read."""
        if self.table is not None:
            return self.table.schema
        try:
            return connection.sql(f"SELECT * FROM {self._relation} LIMIT 0").to_arrow_table().schema
        except duckdb.Error as error:
            raise InputError(
                f"entity rows cannot be read from {self.frame!r} ({error}); expected a frame, an Arrow table, "
                "the path of Parquet files or a query that DuckDB can run"
            ) from error

    def at_column(self, connection: duckdb.DuckDBPyConnection) -> str:
        """The column with each row's instant, found as Feast does: event_timestamp, or else the only timestamp.

        Raises InputError when there is no such column or several.
        """
        empty = self.schema(connection).empty_table().to_pandas()
        try:
            return infer_event_timestamp_from_entity_df(dict(empty.dtypes))
        except EntityTimestampInferenceException as error:
            raise InputError(
                f"entity rows with columns {', '.join(empty.columns)} have no event_timestamp and not exactly one "
                "timestamp column; name the instant of each row event_timestamp"
            ) from error

    def ranges(self, connection: duckdb.DuckDBPyConnection, num_rows: int) -> Iterator[pa.Table]:
        """The rows in order, `num_rows` at a time; without any row, one empty table."""
        if self.table is not None:
            for start in range(0, max(self.table.num_rows, 1), num_rows):
                yield self.table.slice(start, num_rows)
            return
        with another(connection) as cursor:  # other queries run between two ranges
            reader = cursor.sql(f"SELECT * FROM {self._relation}").to_arrow_reader(num_rows)
            is_empty = True
            for batch in reader:
                is_empty = False
                yield pa.Table.from_batches([batch])
            if is_empty:
                yield reader.schema.empty_table()

    def span(self, connection: duckdb.DuckDBPyConnection) -> tuple[datetime | None, datetime | None]:
        """First and last instant of the rows."""
        at = self.at_column(connection)
        if self.table is not None:
            connection.register("entity_instants", self.table.select([at]))
        relation = "entity_instants" if self.table is not None else self._relation
        micros = request_micros(f'"{at}"', columns_of(connection, relation)[at])
        found = connection.sql(f"SELECT min({micros}) AS a, max({micros}) AS b FROM {relation}").to_arrow_table()
        first, last = found["a"][0].as_py(), found["b"][0].as_py()
        return _instant(first), _instant(last)

    @cached_property
    def _relation(self) -> str:
        text = str(self.frame).strip().removesuffix(";")
        path = self._path(text)
        return f"({text})" if path is None else f"read_parquet({literal(path)})"

    def _path(self, text: str) -> str | None:
        if isinstance(self.frame, str) and any(c.isspace() for c in text) and not (self.folder / text).exists():
            return None
        place = self.folder / text
        if place.is_dir():
            return str(place / "**" / "*.parquet")
        if not place.exists() and "*" not in place.name:
            raise InputError(
                f"entity rows not found at {place}; expected Parquet files there, or a query instead of a path"
            )
        return str(place)


def _instant(micros: int | None) -> datetime | None:
    return None if micros is None else datetime.fromtimestamp(micros / 1e6, UTC)
