"""Small Feast repos of a test's own: one Parquet file per view, any schema, any online store."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType

PACKED = "feature_repo.stores.packed.store.PackedOnlineStore"
ENGINE = "feature_repo.stores.packed.engine.PackedEngine"
NOW = datetime.now(UTC).replace(microsecond=0)
KEY = Entity(name="item", join_keys=["item_id"], value_type=ValueType.INT64)


def open_repo(folder: Path, online: Mapping[str, object], engine: object = "local", **options: object) -> FeatureStore:
    """A Feast store with its registry below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = RepoConfig(
        project="contract",
        provider="local",
        registry=str(folder / "registry.db"),
        repo_path=folder,
        entity_key_serialization_version=3,
        offline_store={"type": "duckdb"},
        online_store=dict(online),
        batch_engine=engine,
        materialization={"pull_latest_features": True},
        **options,
    )
    return FeatureStore(config=config)


def make_view(
    folder: Path,
    name: str,
    schema: Mapping[str, object],
    table: pa.Table,
    entities=(KEY,),
    ttl: timedelta | None = timedelta(days=3650),
    tags: Mapping[str, Mapping[str, str]] | None = None,
) -> FeatureView:
    """A view over `table`, which has the join keys, the features, event_at and known_at."""
    path = folder / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    source = FileSource(
        name=f"{name}_source", path=str(path), timestamp_field="event_at", created_timestamp_column="known_at"
    )
    fields = [Field(name=n, dtype=of, tags=dict((tags or {}).get(n, {}))) for n, of in schema.items()]
    return FeatureView(name=name, entities=list(entities), ttl=ttl, schema=fields, source=source)


def instants(*offsets: timedelta) -> pa.Array:
    """NOW minus each offset."""
    return pa.array([NOW - o for o in offsets], pa.timestamp("us", tz="UTC"))
