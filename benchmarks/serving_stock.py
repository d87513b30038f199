"""The same funnel on Feast's own Redis store: a reader that asks `get_online_features`.

Stock writes take minutes for a million posts and a read's cost does not depend on how many rows are stored, so only
the first NUM_POSTS posts, NUM_USERS users and all creators are written, and ids are taken modulo.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from feast import FeatureStore, RepoConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from benchmarks.serving_world import Ids
from core.workspace import Workspace
from feature_repo.catalog import ALL_VIEWS, ENTITY_VIEWS, JOIN_KEYS
from feature_repo.columns import Columns, columns_from_arrow
from feature_repo.store import open_feature_store
from serving.snapshot import load_snapshot

NUM_POSTS, NUM_USERS = 4_000, 1_000
BATCH_IDS = 500
_IDS = "stock_ids.json"


class StockReader:
    """`FeatureReader` over Feast's Redis store."""

    def __init__(self, workspace: Workspace) -> None:
        record = json.loads((workspace.root / _IDS).read_text())
        self._store = _stock_store(workspace, record.pop("connection_string"))
        self._ids = {entity: np.array(ids, dtype=np.int64) for entity, ids in record.items()}

    def read(self, entity: str, ids: Ids, views: Sequence[str]) -> Columns:
        """Features of the ids, of which each stands for one that is stored."""
        known, join_key = self._ids[entity], JOIN_KEYS[entity]
        chosen = known[ids % len(known)].tolist()
        names = [f"{view}:{field.name}" for view in views for field in ALL_VIEWS[view].fields]
        found = self._store.get_online_features(names, {join_key: chosen}, full_feature_names=True)
        return columns_from_arrow(found.to_arrow())


def fill_stock(source: Workspace, workspace: Workspace, redis_url: str) -> None:
    """Writes the packed rows of the first entities to database 1 of the Redis at `redis_url` in Feast's own format."""
    packed = open_feature_store(workspace)
    where = redis_url.removeprefix("redis://").removesuffix("/0")
    connection_string = f"{where},db=1"
    stock = _stock_store(workspace, connection_string)
    snapshot = load_snapshot(source)
    ids = {
        "user": snapshot.users.user_ids[:NUM_USERS],
        "post": snapshot.catalogue.post_ids[:NUM_POSTS],
        "creator": np.unique(snapshot.catalogue.creator_ids[:NUM_POSTS]),
    }
    registered = {view.name for view in packed.list_batch_feature_views()}
    for entity, chosen in ids.items():
        for view in registered.intersection(ENTITY_VIEWS[entity]):
            for start in range(0, len(chosen), BATCH_IDS):
                _copy(packed, stock, view, JOIN_KEYS[entity], chosen[start : start + BATCH_IDS])
    record = {"connection_string": connection_string, **{name: some.tolist() for name, some in ids.items()}}
    (workspace.root / _IDS).write_text(json.dumps(record))


def _copy(packed: FeatureStore, stock: FeatureStore, view: str, join_key: str, ids: Ids) -> None:
    table = packed.get_feature_view(view)
    keys = [EntityKey(join_keys=[join_key], entity_values=[Value(int64_val=i)]) for i in ids.tolist()]
    found = packed._get_provider().online_store.online_read(packed.config, table, keys)
    rows = [(key, row, at, None) for key, (at, row) in zip(keys, found, strict=True) if row is not None and at]
    stock._get_provider().online_write_batch(stock.config, table, rows, None)


def _stock_store(workspace: Workspace, connection_string: str) -> FeatureStore:
    config = RepoConfig(
        project="vitrine",
        provider="local",
        registry=str(workspace.data / "registry.db"),
        repo_path=Path(workspace.root),
        entity_key_serialization_version=3,
        online_store={"type": "redis", "connection_string": connection_string},
        offline_store={"type": "duckdb"},
    )
    return FeatureStore(config=config)
