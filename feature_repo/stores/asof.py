"""Feast's DuckDB offline store with exact point-in-time joins by ASOF, known time always respected."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import duckdb
import ibis
import pandas as pd
import pyarrow as pa
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.feature_view import FeatureView
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig, _write_data_source
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage

from core.errors import MissingStageError
from core.settings import Settings
from feature_repo.store import workspace_of
from feature_repo.stores.point_in_time import AllQuery, LatestQuery, ParquetTable, PointInTimeQuery, ViewJoin

ON_DEMAND_ROWS = 20_000
"""Rows per call of an on-demand view; pandas holds one object per list, so all rows at once would not fit."""


class AsofOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """Same options as Feast's DuckDB store."""

    type: Literal["feature_repo.stores.asof.AsofOfflineStore"] = "feature_repo.stores.asof.AsofOfflineStore"


class AsofOfflineStore(DuckDBOfflineStore):
    """Feast's DuckDB store; joins and materialisation see a row from its known time on."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | pa.Table | str,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = True,
    ) -> RetrievalJob:
        """Job whose rows are those of `entity_df`, in order, with each view's row as it was known then.

        `entity_df` is a frame, an Arrow table or a SQL query. The known-time cutoff is on whatever
        `filter_by_created_timestamp` says.
        """
        if not all(_is_parquet(v.batch_source) for v in feature_views):
            return DuckDBOfflineStore.get_historical_features(
                config, feature_views, feature_refs, entity_df, registry, project, full_feature_names, True
            )
        joins = [_view_join(config, v, feature_refs, full_feature_names) for v in feature_views]
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        return AsofRetrievalJob(
            PointInTimeQuery(entity_df, joins),
            [_SlicedOnDemandView(v) for v in on_demand],
            full_feature_names,
            feature_refs,
            config,
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """Job with the latest row of each key among those that became available within [start, end]."""
        if not _is_parquet(data_source):
            return DuckDBOfflineStore.pull_latest_from_table_or_query(
                config,
                data_source,
                join_key_columns,
                feature_name_columns,
                timestamp_field,
                created_timestamp_column,
                start_date,
                end_date,
            )
        table = ParquetTable(_glob(config, data_source), timestamp_field, created_timestamp_column)
        query = LatestQuery(table, join_key_columns, feature_name_columns, start_date, end_date)
        return AsofRetrievalJob(query, [], False, [], config)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Job with every row that became available within [start, end]."""
        if not _is_parquet(data_source):
            return DuckDBOfflineStore.pull_all_from_table_or_query(
                config,
                data_source,
                join_key_columns,
                feature_name_columns,
                timestamp_field,
                created_timestamp_column,
                start_date,
                end_date,
            )
        table = ParquetTable(_glob(config, data_source), timestamp_field, created_timestamp_column)
        query = AllQuery(table, [*join_key_columns, *feature_name_columns], start_date, end_date)
        return AsofRetrievalJob(query, [], False, [], config)


class AsofRetrievalJob(RetrievalJob):
    """Runs its query when asked for a frame or a table."""

    def __init__(
        self,
        query: PointInTimeQuery | LatestQuery | AllQuery,
        on_demand_feature_views: Sequence["_SlicedOnDemandView"],
        full_feature_names: bool,
        feature_refs: list[str],
        config: RepoConfig,
    ) -> None:
        self._query = query
        self._on_demand_feature_views = list(on_demand_feature_views)
        self._full_feature_names = full_feature_names
        self._feature_refs = feature_refs
        self._config = config

    @property
    def full_feature_names(self) -> bool:
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[Any]:
        return self._on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata:
        keys = self._query.key_names() if isinstance(self._query, PointInTimeQuery) else []
        return RetrievalMetadata(features=self._feature_refs, keys=keys)

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Writes the joined table where `storage` points."""
        table = ibis.memtable(self._to_arrow_internal())
        _write_data_source(table, storage.to_data_source(), str(self._config.repo_path), "overwrite", allow_overwrite)

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        connection = _connect(self._config)
        try:
            return self._query.run(connection)
        finally:
            connection.close()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._to_arrow_internal().to_pandas()


class _SlicedOnDemandView:
    """An on-demand view that is computed a slice of rows at a time; otherwise the view itself."""

    def __init__(self, view: OnDemandFeatureView) -> None:
        self._view = view

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)

    def transform_arrow(self, table: pa.Table, full_feature_names: bool = False) -> pa.Table:
        slices = [
            self._view.transform_arrow(table.slice(start, ON_DEMAND_ROWS), full_feature_names)
            for start in range(0, max(table.num_rows, 1), ON_DEMAND_ROWS)
        ]
        return pa.concat_tables(slices)


def _view_join(config: RepoConfig, view: FeatureView, feature_refs: list[str], full_names: bool) -> ViewJoin:
    source = view.batch_source
    stored = {new: old for old, new in source.field_mapping.items()}
    prefix = f"{view.projection.name_to_use()}:"
    features = [ref.removeprefix(prefix) for ref in feature_refs if ref.startswith(prefix)]
    base = view.projection.name_alias or view.name
    keys = view.projection.join_key_map or {e.name: e.name for e in view.entity_columns}
    return ViewJoin(
        table=ParquetTable(_glob(config, source), source.timestamp_field, source.created_timestamp_column or None),
        keys={stored.get(key, key): entity for key, entity in keys.items()},
        outputs={(f"{base}__{f}" if full_names else f): stored.get(f, f) for f in features},
        ttl=view.ttl or None,
    )


def _is_parquet(source: DataSource | None) -> bool:
    if not isinstance(source, FileSource) or "://" in source.path:
        return False
    return source.file_format is None or isinstance(source.file_format, ParquetFormat)


def _glob(config: RepoConfig, source: FileSource) -> str:
    """Pattern of the source's files; a relative path is below the repo, not below the working directory."""
    place = Path(FileSource.get_uri_for_file_path(config.repo_path, source.path))
    if place.is_dir():
        return str(place / "**" / "*.parquet")
    if not place.exists() and "*" not in place.name:
        raise MissingStageError("feature table", place, "python -m feature_repo build")
    return str(place)


def _connect(config: RepoConfig) -> duckdb.DuckDBPyConnection:
    settings = Settings()
    connection = duckdb.connect(
        config={
            "threads": settings.num_threads,
            "memory_limit": settings.duckdb_memory,
            "temp_directory": str(workspace_of(config).root / "tmp"),
            "preserve_insertion_order": False,
        }
    )
    connection.execute("SET TimeZone = 'UTC'")
    return connection
