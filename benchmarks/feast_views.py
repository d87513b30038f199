"""Feast repos of a benchmark: views of Float32 features over one Parquet file each, on a given Redis."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float32, Int64

NOW = datetime(2026, 6, 1, tzinfo=UTC)
TTL = timedelta(days=3650)
ITEM = Entity(name="item", join_keys=["item_id"], value_type=ValueType.INT64)
STOCK = {"type": "redis"}
PACKED = {"type": "feature_repo.stores.packed.store.PackedOnlineStore"}
PACKED_ENGINE = {"type": "feature_repo.stores.packed.engine.PackedEngine", "show_progress": False}
ASOF = {"type": "feature_repo.stores.asof.AsofOfflineStore"}


def write_items(path: Path, num_items: int, num_features: int, seed: int) -> pa.Table:
    """One row per item with random features, as a Parquet file and as a table."""
    numbers = np.random.default_rng(seed).normal(size=(num_features, num_items)).astype(np.float32)
    columns: dict[str, object] = {"item_id": np.arange(num_items)}
    columns |= {f"f{place}": column for place, column in enumerate(numbers)}
    at = pa.array(np.full(num_items, np.datetime64(NOW.replace(tzinfo=None), "us")), pa.timestamp("us", tz="UTC"))
    table = pa.table({**columns, "event_at": at, "known_at": at})
    pq.write_table(table, path)
    return table


def make_view(name: str, path: Path, num_features: int) -> FeatureView:
    """A view over a file that `write_items` wrote."""
    source = FileSource(
        name=f"{name}_source", path=str(path), timestamp_field="event_at", created_timestamp_column="known_at"
    )
    fields = [Field(name=f"f{place}", dtype=Float32) for place in range(num_features)]
    return FeatureView(
        name=name, entities=[ITEM], ttl=TTL, schema=[Field(name="item_id", dtype=Int64), *fields], source=source
    )


def open_repo(
    folder: Path, views: list[FeatureView], online: Mapping[str, str], engine: object, offline: Mapping[str, str]
) -> FeatureStore:
    """An applied Feast repo with a service `all` of every view."""
    folder.mkdir(parents=True)
    config = RepoConfig(
        project="bench",
        provider="local",
        registry=str(folder / "registry.db"),
        repo_path=folder,
        entity_key_serialization_version=3,
        online_store=dict(online),
        offline_store=dict(offline),
        batch_engine=engine,
        materialization={"pull_latest_features": True, "online_write_batch_size": 10_000},
    )
    store = FeatureStore(config=config)
    store.apply([ITEM, *views, FeatureService(name="all", features=views)])
    return store


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that goes with the block."""
    with TemporaryDirectory(prefix="vitrine-bench-") as folder:
        yield Path(folder)
