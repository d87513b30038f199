"""Feast's online store on packed rows: everything Feast asks of a store, a row per view and entity.

Meant to differ from Feast's own Redis store (docs/feast-plugins.md): a view's time to live holds on
every read; a later known time corrects a row of equal event time; an entity without a row is
NOT_FOUND; a write replaces the whole row.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Literal

import pyarrow as pa
from feast import Entity, FeatureView, RepoConfig
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.supported_async_methods import SupportedAsyncMethods
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel
from pydantic import StrictStr

from core.clock import Clock
from feature_repo.stores.packed import connect
from feature_repo.stores.packed.connect import view_name
from feature_repo.stores.packed.keys import KeySpace, entities_of_protos, require_serialization
from feature_repo.stores.packed.layout import layout_of, ttl_us_of
from feature_repo.stores.packed.response import FeatureRead
from feature_repo.stores.packed.rows import Row, datetime_of, pack_batch, pack_protos
from feature_repo.stores.packed.server import Batch, RowServer
from feature_repo.stores.packed.wide import WideRows, lone_layout
from feature_repo.stores.packed.wire import values_of

MICROS = 1_000_000
ReadRow = tuple[datetime | None, dict[str, Value] | None]


class PackedOnlineStoreConfig(FeastConfigBaseModel):
    """Options of the packed store in feature_store.yaml, under `online_store`."""

    type: Literal["feature_repo.stores.packed.store.PackedOnlineStore"] = (
        "feature_repo.stores.packed.store.PackedOnlineStore"
    )
    connection_string: StrictStr = ""
    """`redis://:password@host:port/db`, `rediss://...` for TLS, or Feast's `host:port,password=...,ssl=true`.

    Empty in Vitrine, whose workspace knows (VITRINE_REDIS_URL or the embedded server)."""

    redis_type: Literal["redis", "redis_cluster"] = "redis"

    key_ttl_seconds: int | None = None
    """Redis forgets a row this long after its last write; None keeps it. A view's TTL holds in any case."""

    full_scan_for_deletion: bool = True
    """Delete the rows of views that `feast apply` removes, by a scan of the keys."""


class PackedOnlineStore(OnlineStore):
    """One instance per process; safe among threads."""

    def __init__(self) -> None:
        self._server: RowServer | None = None
        self.clock: Clock | None = None
        """Tells the ages of rows; None takes the workspace's clock, or the wall outside Vitrine."""
        self.wait_seconds: float | None = None
        """Longest wait for one answer of Redis; None takes the client's own. Set before the first read."""
        self.num_foreign_rows = 0
        """Rows of another layout met by reads so far; they read as missing until written again."""

    @property
    def async_supported(self) -> SupportedAsyncMethods:
        return SupportedAsyncMethods(read=True, write=True)

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: list[Row], progress: Callable[[int], Any] | None
    ) -> None:
        list(self.server(config).write([self._packed(config, table, data)], config.online_store.key_ttl_seconds))
        if progress:
            progress(len(data))

    async def online_write_batch_async(
        self, config: RepoConfig, table: FeatureView, data: list[Row], progress: Callable[[int], Any] | None
    ) -> None:
        batch = self._packed(config, table, data)
        await self.server(config).write_async(batch, config.online_store.key_ttl_seconds)
        if progress:
            progress(len(data))

    def write_arrow(
        self, config: RepoConfig, table: FeatureView, batches: Iterable[pa.RecordBatch]
    ) -> Iterator[tuple[int, int]]:
        """Writes Arrow batches with the view's own column names; yields per call rows seen and rows written.

        Batches are drawn as the server takes them, so memory holds a few at a time.
        """
        space, layout, name = self.key_space(config), layout_of(table), view_name(config, table)
        sizes: list[int] = []

        def packed() -> Iterator[Batch]:
            for batch in batches:
                entities, rows = pack_batch(layout, table, batch)
                sizes.append(len(rows))
                yield space.keys(name, entities), rows

        for written in self.server(config).write(packed(), config.online_store.key_ttl_seconds):
            seen = sum(sizes)
            sizes.clear()
            yield seen, written

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[ReadRow]:
        raw = self.server(config).read(self._keys(config, table, entities_of_protos(entity_keys)))
        return self._feast_rows(config, table, raw, requested_features)

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[ReadRow]:
        raw = await self.server(config).read_async(self._keys(config, table, entities_of_protos(entity_keys)))
        return self._feast_rows(config, table, raw, requested_features)

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Deletes the rows of views that left the repo; a changed schema needs nothing."""
        if config.online_store.full_scan_for_deletion:
            for table in tables_to_delete:
                self.delete_table(config, table)

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        for table in tables:
            self.delete_table(config, table)

    def delete_table(self, config: RepoConfig, table: FeatureView) -> int:
        """Deletes the view's rows of this repo; returns how many there were."""
        return self.server(config).delete(self.key_space(config).pattern(view_name(config, table)))

    async def close(self) -> None:
        if self._server is not None:
            await self._server.close()
            self._server = None

    def server(self, config: RepoConfig) -> RowServer:
        """The repo's Redis, found when first used."""
        if self._server is None:
            self._server = connect.open_server(config, self.wait_seconds)
        return self._server

    def key_space(self, config: RepoConfig) -> KeySpace:
        require_serialization(config.entity_key_serialization_version)
        return connect.key_space(config)

    def unpack(self, config: RepoConfig, view: Any, raw: Sequence[bytes | None]) -> WideRows:
        """Rows of one view within their time to live, the others blank."""
        return self.counted(lone_layout(layout_of(view), ttl_us_of(view)).unpack(raw, self.now_us(config)))

    def counted(self, rows: WideRows) -> WideRows:
        """The same rows, foreign ones counted."""
        self.num_foreign_rows += rows.num_foreign
        return rows

    def now_us(self, config: RepoConfig) -> int:
        """The platform's now in microseconds."""
        if self.clock is None:
            self.clock = connect.clock_of(config)
        return round(self.clock.now().timestamp() * MICROS)

    def _packed(self, config: RepoConfig, table: FeatureView, data: list[Row]) -> Batch:
        entities, rows = pack_protos(layout_of(table), data)
        return self._keys(config, table, entities), rows

    def _keys(self, config: RepoConfig, table: FeatureView, entities: Sequence[bytes]) -> list[bytes]:
        return self.key_space(config).keys(view_name(config, table), entities)

    def _feast_rows(
        self, config: RepoConfig, view: FeatureView, raw: Sequence[bytes | None], features: list[str] | None
    ) -> list[ReadRow]:
        rows = self.unpack(config, view, raw).view(0)
        names = features or [f.name for f in view.features]
        columns = values_of(rows, names)
        return [
            (datetime_of(micros), dict(zip(names, values, strict=True))) if is_found else (None, None)
            for micros, is_found, values in zip(
                rows.event_us.tolist(), rows.found.tolist(), zip(*columns, strict=True), strict=True
            )
        ]

    def _is_versioned_read_supported(self) -> bool:
        return True

    def _read_features_per_fv(self, config: RepoConfig, *request: Any, **options: Any) -> None:
        """Feast's hook below get_online_features: all views in one round trip. It passes what `_planned` takes."""
        keys, fill = self._planned(config, *request, **options)
        fill(self.server(config).read(keys))

    async def _read_features_per_fv_async(self, config: RepoConfig, *request: Any, **options: Any) -> None:
        keys, fill = self._planned(config, *request, **options)
        fill(await self.server(config).read_async(keys))

    def _planned(
        self,
        config: RepoConfig,
        grouped_refs: Sequence[tuple[FeatureView, list[str]]],
        join_key_values: Mapping[str, Sequence[Value]],
        entity_name_to_join_key_map: Mapping[str, str],
        online_features_response: GetOnlineFeaturesResponse,
        full_feature_names: bool,
        include_feature_view_version_metadata: bool,
    ) -> tuple[list[bytes], Callable[[Sequence[bytes | None]], None]]:
        """Keys to fetch, and what fills Feast's response from their rows."""
        space, name_of = self.key_space(config), partial(view_name, config)
        read = FeatureRead(space, name_of, grouped_refs, join_key_values, entity_name_to_join_key_map)
        names, version = full_feature_names, include_feature_view_version_metadata
        return read.keys, partial(read.fill, online_features_response, partial(self.unpack, config), names, version)
