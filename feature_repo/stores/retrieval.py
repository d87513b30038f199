"""What a query of the ASOF store gives: frame, Arrow table, record batches, Parquet file or saved dataset.

Batches and files are written a range of rows at a time and never hold the whole result.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import duckdb
import ibis
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.duckdb import _write_data_source
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.saved_dataset import SavedDatasetStorage

from core.files import sync_folder
from feature_repo.stores.duckdb_engine import EngineLimits, open_engine
from feature_repo.stores.on_demand import SlicedOnDemandView, in_declared_types
from feature_repo.stores.point_in_time import PointInTimeQuery

BATCH_ROWS = 100_000
"""Rows per batch or row group where nobody says."""


class Query(Protocol):
    """What a job runs."""

    def tables(self, connection: duckdb.DuckDBPyConnection, num_rows: int | None = None) -> Iterator[pa.Table]:
        """The result in parts, at least one, all of one schema."""


class AsofRetrievalJob(RetrievalJob):
    """Runs its query each time it is asked for a result."""

    def __init__(
        self,
        query: Query,
        limits: EngineLimits,
        repo_path: Path,
        feature_refs: Sequence[str] = (),
        on_demand_feature_views: Sequence[OnDemandFeatureView] = (),
        full_feature_names: bool = False,
    ) -> None:
        self._query = query
        self._limits = limits
        self._repo_path = repo_path
        self._feature_refs = list(feature_refs)
        self._on_demand_feature_views = [SlicedOnDemandView(v) for v in on_demand_feature_views]
        self._full_feature_names = full_feature_names

    @property
    def full_feature_names(self) -> bool:
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[Any]:
        return self._on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata:
        return _LazyMetadata(self._feature_refs, self._query, self._limits)

    def to_record_batches(self, batch_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """The result in batches of at most `batch_rows` rows; without rows, one empty batch that has the schema.

        A joined result keeps the order of its entity rows; rows pulled from one table come in no stated order.
        On-demand features have the types that their views declare.
        Raises ValueError for batches without rows, FeatureStoreError when the query fails.
        """
        if batch_rows < 1:
            raise ValueError(f"batches of {batch_rows} rows; expected at least 1")
        schema: pa.Schema | None = None
        with open_engine(self._limits) as connection:
            # Joined ranges cost a pass over the history each, so their size is not the batches'.
            for part in self._query.tables(connection, self._part_rows(batch_rows)):
                if part.num_rows:
                    for start in range(0, part.num_rows, batch_rows):
                        table = self._computed(part.slice(start, batch_rows))
                        schema = schema or table.schema
                        yield _one_batch(table, schema)
                elif schema is None and isinstance(self._query, PointInTimeQuery):
                    schema = (table := self._computed(part)).schema
                    yield _one_batch(table, schema)
                else:
                    empty = part
            if schema is None:
                yield _one_batch(empty, empty.schema)

    def to_parquet(self, path: Path, batch_rows: int = BATCH_ROWS) -> int:
        """Number of rows written to the file at `path`, which appears whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        try:
            num_rows = self._write(Path(temporary), batch_rows)
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
        return num_rows

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Writes the result, on-demand features included, where `storage` points.

        Raises Feast's SavedDatasetLocationAlreadyExists when something is there and may not be overwritten.
        """
        source = storage.to_data_source()
        place = local_parquet(source, self._repo_path)
        if place is None:
            _write_data_source(
                ibis.memtable(self.to_arrow()), source, str(self._repo_path), "overwrite", allow_overwrite
            )
            return
        if place.exists() and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(location=str(place))
        is_file = place.suffix == ".parquet" and not place.is_dir()
        older = [] if is_file else list(place.glob("**/*.parquet"))
        written = place if is_file else place / "part-0.parquet"
        self.to_parquet(written)
        for file in older:
            if file != written:
                file.unlink()

    def _write(self, path: Path, batch_rows: int) -> int:
        num_rows = 0
        writer: pq.ParquetWriter | None = None
        try:
            for batch in self.to_record_batches(batch_rows):
                writer = writer or pq.ParquetWriter(path, batch.schema, compression="zstd")
                writer.write_batch(batch, row_group_size=batch_rows)
                num_rows += batch.num_rows
        finally:
            if writer is not None:
                writer.close()
        with path.open("rb") as file:
            os.fsync(file.fileno())
        return num_rows

    def _part_rows(self, batch_rows: int) -> int | None:
        return None if isinstance(self._query, PointInTimeQuery) else batch_rows

    def _computed(self, part: pa.Table) -> pa.Table:
        if not self._on_demand_feature_views:
            return part
        job = _PartJob(part, self)
        return in_declared_types(job.to_arrow(), self._on_demand_feature_views, self._full_feature_names)

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        with open_engine(self._limits) as connection:
            return pa.concat_tables(self._query.tables(connection))

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._to_arrow_internal().to_pandas()


class _PartJob(AsofRetrievalJob):
    """A part of a job's rows, so that Feast's own code adds the on-demand features to it."""

    def __init__(self, part: pa.Table, whole: AsofRetrievalJob) -> None:
        self.__dict__.update(whole.__dict__)
        self._part = part

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._part


class _LazyMetadata(RetrievalMetadata):
    """Feast's metadata; the rows' span of time is read when somebody asks, since it may take a pass over a file."""

    def __init__(self, feature_refs: list[str], query: Query, limits: EngineLimits) -> None:
        self.features = feature_refs
        self.keys = []
        self._query, self._limits = query, limits
        if isinstance(query, PointInTimeQuery):
            self.keys = [*query.key_names(), *query.request_columns]

    @property
    def min_event_timestamp(self) -> datetime | None:
        return self._span[0]

    @property
    def max_event_timestamp(self) -> datetime | None:
        return self._span[1]

    @cached_property
    def _span(self) -> tuple[datetime | None, datetime | None]:
        if not isinstance(self._query, PointInTimeQuery):
            return None, None
        with open_engine(self._limits) as connection:
            return self._query.entities.span(connection)


def local_parquet(source: DataSource | None, repo_path: Path) -> Path | None:
    """Where the Parquet files of `source` are on this machine, below the repo if relative; None for other sources."""
    if not isinstance(source, FileSource) or "://" in source.path:
        return None
    if source.file_format is not None and not isinstance(source.file_format, ParquetFormat):
        return None
    return Path(FileSource.get_uri_for_file_path(repo_path, source.path))


def _one_batch(table: pa.Table, schema: pa.Schema) -> pa.RecordBatch:
    if table.num_rows == 0:
        return pa.RecordBatch.from_pylist([], schema=schema)
    (batch,) = table.cast(schema).combine_chunks().to_batches()
    return batch
