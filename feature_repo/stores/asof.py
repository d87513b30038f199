"""Feast's DuckDB offline store with exact point-in-time joins by ASOF, known time always respected.

Any Feast project uses it by one line of feature_store.yaml; docs/feast-plugins.md says how.
"""

from datetime import datetime
from pathlib import Path
from typing import Final, Literal

import pandas as pd
import pyarrow as pa
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from pydantic import Field

from core.errors import ConfigError, InputError, MissingStageError
from core.settings import Settings
from feature_repo.store import workspace_of
from feature_repo.stores.duckdb_engine import EngineLimits
from feature_repo.stores.entity_rows import EntityRows
from feature_repo.stores.feature_table import FeatureTable
from feature_repo.stores.point_in_time import PointInTimeQuery, ViewJoin
from feature_repo.stores.pulled_rows import AllQuery, LatestQuery
from feature_repo.stores.retrieval import AsofRetrievalJob, local_parquet

OFFLINE_STORE: Final = "feature_repo.stores.asof.AsofOfflineStore"


class AsofOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """Options of Feast's DuckDB store, and what one query may take; what is not given comes from Settings."""

    type: Literal["feature_repo.stores.asof.AsofOfflineStore"] = OFFLINE_STORE
    memory_limit: str | None = Field(None, description="DuckDB's memory, such as 3GB; more than that spills to disk.")
    threads: int | None = Field(None, ge=1, description="DuckDB's threads.")
    spill_directory: str | None = Field(None, description="Folder to spill to, below the repo if relative.")


class AsofOfflineStore(DuckDBOfflineStore):
    """Feast's DuckDB store; joins and materialisation see a row from its known time on."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | pa.Table | str | Path | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = True,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Job whose rows are those of `entity_df`, in order, with each view's row as it was known then.

        `entity_df` is a frame, an Arrow table, the path of Parquet files or a SQL query. The known-time cutoff
        is on whatever `filter_by_created_timestamp` says.
        """
        if entity_df is None:
            raise InputError(
                f"features from {start_date} to {end_date} without entity rows are not for the ASOF store; "
                "give entity_df, or read the feature table itself"
            )
        if any(local_parquet(v.batch_source, _repo(config)) is None for v in feature_views):
            return DuckDBOfflineStore.get_historical_features(
                config, feature_views, feature_refs, entity_df, registry, project, full_feature_names, True
            )
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        query = PointInTimeQuery(
            EntityRows(entity_df, _repo(config)),
            [_view_join(config, v, feature_refs, full_feature_names) for v in feature_views],
            sorted({name for v in on_demand for name in v.get_request_data_schema()}),
        )
        return AsofRetrievalJob(query, _limits(config), _repo(config), feature_refs, on_demand, full_feature_names)

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
        if local_parquet(data_source, _repo(config)) is None:
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
        table = _table(config, data_source, timestamp_field, created_timestamp_column)
        query = LatestQuery(table, join_key_columns, feature_name_columns, start_date, end_date)
        return AsofRetrievalJob(query, _limits(config), _repo(config))

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
        if local_parquet(data_source, _repo(config)) is None:
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
        table = _table(config, data_source, timestamp_field, created_timestamp_column)
        query = AllQuery(table, join_key_columns, feature_name_columns, start_date, end_date)
        return AsofRetrievalJob(query, _limits(config), _repo(config))


def _view_join(config: RepoConfig, view: FeatureView, feature_refs: list[str], full_names: bool) -> ViewJoin:
    source = view.batch_source
    stored = {new: old for old, new in source.field_mapping.items()}
    prefix = f"{view.projection.name_to_use()}:"
    features = [ref.removeprefix(prefix) for ref in feature_refs if ref.startswith(prefix)]
    base = view.projection.name_alias or view.name
    keys = [e.name for e in view.entity_columns if e.name != DUMMY_ENTITY_ID]
    known = source.created_timestamp_column
    return ViewJoin(
        table=_table(
            config, source, stored.get(source.timestamp_field, source.timestamp_field), stored.get(known, known)
        ),
        # A map may name some of the keys; the others are called the same in the entity rows.
        keys={stored.get(key, key): view.projection.join_key_map.get(key, key) for key in keys},
        outputs={(f"{base}__{f}" if full_names else f): stored.get(f, f) for f in features},
        ttl=view.ttl or None,
    )


def _table(config: RepoConfig, source: DataSource, event_column: str, known_column: str | None) -> FeatureTable:
    """The source's files; a relative path is below the repo, not below the working directory."""
    place = local_parquet(source, _repo(config))
    if place is None:
        raise ValueError(f"source {source.name} is not local Parquet; expected Feast's own store to read it")
    if place.is_dir():
        return FeatureTable(source.name, str(place / "**" / "*.parquet"), event_column, known_column or None)
    if not place.exists() and "*" not in place.name:
        raise MissingStageError(
            f"feature table of source {source.name}", place, "python -m feature_repo build, or what writes your tables"
        )
    return FeatureTable(source.name, str(place), event_column, known_column or None)


def _limits(config: RepoConfig) -> EngineLimits:
    settings, chosen = Settings(), config.offline_store
    if not isinstance(chosen, AsofOfflineStoreConfig):
        raise ConfigError(f"offline_store is configured as {chosen!r}; expected type: {OFFLINE_STORE}")
    return EngineLimits(
        memory=chosen.memory_limit or settings.duckdb_memory,
        threads=chosen.threads or settings.num_threads,
        spill=_repo(config) / chosen.spill_directory if chosen.spill_directory else _temporary_folder(config),
    )


def _temporary_folder(config: RepoConfig) -> Path:
    """`tmp` beside the data of a Vitrine workspace, in another project's repo else."""
    workspace = workspace_of(config)
    return (workspace.root if workspace.manifest_path.exists() else _repo(config)) / "tmp"


def _repo(config: RepoConfig) -> Path:
    return Path(config.repo_path or ".")
