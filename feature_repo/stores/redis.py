"""Feast's Redis online store, bound to a workspace: it finds its server and keeps datasets apart.

Formats, semantics and speed are Feast's own; the packed store is the one that Vitrine serves from. The
connection comes from VITRINE_REDIS_URL or the workspace's embedded server when first used; keys end in
`project:dataset`, so that datasets can share a team's server.
"""

import copy
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

import redis
from feast.feature_view import FeatureView
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from pydantic import StrictStr
from redis.backoff import NoBackoff
from redis.retry import Retry

from core.errors import FeatureStoreError
from core.settings import Settings
from core.workspace import Workspace
from feature_repo.store import workspace_of
from feature_repo.stores.embedded import redis_url
from feature_repo.stores.packed.server import TIMEOUTS, mapped_errors

Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]


class WorkspaceRedisOnlineStoreConfig(RedisOnlineStoreConfig):
    """Options of Feast's Redis store; `connection_string` stays empty, the workspace knows."""

    type: Literal["feature_repo.stores.redis.WorkspaceRedisOnlineStore"] = (
        "feature_repo.stores.redis.WorkspaceRedisOnlineStore"
    )
    connection_string: StrictStr = ""


class WorkspaceRedisOnlineStore(RedisOnlineStore):
    """Feast's Redis store on the Redis of the workspace below which the Feast repo keeps its data."""

    _workspace: Workspace | None = None
    _client: redis.Redis | None = None
    _client_async: redis.asyncio.Redis | None = None

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: list[Row], progress: Callable[[int], Any] | None
    ) -> None:
        with mapped_errors():
            super().online_write_batch(self._scoped(config), table, data, progress)

    async def online_write_batch_async(
        self, config: RepoConfig, table: FeatureView, data: list[Row], progress: Callable[[int], Any] | None
    ) -> None:
        await super().online_write_batch_async(self._scoped(config), table, data, progress)

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        with mapped_errors():
            return super().online_read(self._scoped(config), table, entity_keys, requested_features)

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        return await super().online_read_async(self._scoped(config), table, entity_keys, requested_features)

    def delete_entity_values(self, config: RepoConfig, join_keys: list[str]) -> None:
        with mapped_errors():
            super().delete_entity_values(self._scoped(config), join_keys)

    def delete_table(self, config: RepoConfig, table: FeatureView) -> None:
        with mapped_errors():
            super().delete_table(self._scoped(config), table)

    def _read_features_per_fv(self, config: RepoConfig, *args: Any, **kwargs: Any) -> None:
        with mapped_errors():
            super()._read_features_per_fv(self._scoped(config), *args, **kwargs)

    async def _read_features_per_fv_async(self, config: RepoConfig, *args: Any, **kwargs: Any) -> None:
        await super()._read_features_per_fv_async(self._scoped(config), *args, **kwargs)

    def _get_client(self, online_store_config: RedisOnlineStoreConfig) -> redis.Redis:
        if self._client is None:
            self._client = redis.Redis.from_url(
                self._url(),
                retry=Retry(NoBackoff(), 1),  # once, for connections that a restart left stale
                **TIMEOUTS,
            )
        return self._client

    async def _get_client_async(self, online_store_config: RedisOnlineStoreConfig) -> redis.asyncio.Redis:
        if self._client_async is None:
            self._client_async = redis.asyncio.Redis.from_url(self._url(), **TIMEOUTS)
        return self._client_async

    def _url(self) -> str:
        if self._workspace is None:
            raise FeatureStoreError("the online store was asked for a connection before it knew its workspace")
        return redis_url(self._workspace, Settings())

    def _scoped(self, config: RepoConfig) -> RepoConfig:
        """The configuration with the dataset in its project name, which ends every key."""
        self._workspace = workspace_of(config)
        dataset = self._workspace.root.name
        scoped = copy.copy(config)
        scoped.project = f"{config.project}:{dataset}"
        return scoped
