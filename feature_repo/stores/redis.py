"""Feast's Redis online store, bound to a workspace: it finds its server and keeps datasets apart.

Formats and semantics are Feast's own, so the stock store can read what this one writes. Differences:
the connection comes from VITRINE_REDIS_URL or the workspace's embedded server when first used; keys
end in `project:dataset`, so that datasets can share a team's server; writes hash each field name
once instead of once per row.
"""

import copy
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Literal

import redis
from feast import utils
from feast.feature_view import FeatureView
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import _mmh3
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig, _versioned_fv_name
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import StrictStr
from redis.backoff import NoBackoff
from redis.retry import Retry

from core.errors import FeatureStoreError, StoreUnavailableError
from core.settings import Settings
from core.workspace import Workspace
from feature_repo.store import workspace_of
from feature_repo.stores.embedded import redis_url

Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]

SOCKET_SECONDS = 5.0
"""Longest wait for one answer; a batch of writes takes well under a second."""


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
        """Writes the rows that are newer than what is stored, as the stock store does."""
        scoped = self._scoped(config)
        client = self._get_client(scoped.online_store)
        view = _versioned_fv_name(table, scoped)
        ts_key = f"_ts:{view}"
        fields = {f.name: _mmh3(f"{view}:{f.name}") for f in table.features}
        suffix = scoped.project.encode()
        keys = [serialize_entity_key(row[0], scoped.entity_key_serialization_version) + suffix for row in data]
        with _mapped_errors(), client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hget(key, ts_key)
            newest = dict(zip(keys, (_nanos(raw) for raw in pipe.execute()), strict=True))
            for key, (_, values, event_at, _) in zip(keys, data, strict=True):
                stamp = Timestamp()
                stamp.FromDatetime(utils.make_tzaware(event_at))
                if stamp.ToNanoseconds() <= newest[key]:
                    continue
                newest[key] = stamp.ToNanoseconds()
                flat: list[bytes | str] = [ts_key, stamp.SerializeToString()]
                for name, value in values.items():
                    flat += (fields[name], value.SerializeToString())
                pipe.execute_command("HSET", key, *flat)
                if scoped.online_store.key_ttl_seconds:
                    pipe.expire(key, scoped.online_store.key_ttl_seconds)
            pipe.execute()
        if progress:
            progress(len(data))

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
        with _mapped_errors():
            return super().online_read(self._scoped(config), table, entity_keys, requested_features)

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        return await super().online_read_async(self._scoped(config), table, entity_keys, requested_features)

    def read_hashes(
        self, config: RepoConfig, keys: Sequence[bytes], fields: Sequence[bytes | str]
    ) -> list[list[bytes | None]]:
        """Raw values of `fields` for each of the entities `keys` (serialized, without project), [N][F]."""
        scoped = self._scoped(config)
        suffix = scoped.project.encode()
        with _mapped_errors(), self._get_client(scoped.online_store).pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.execute_command("HMGET", key + suffix, *fields)
            return pipe.execute()

    def delete_entity_values(self, config: RepoConfig, join_keys: list[str]) -> None:
        with _mapped_errors():
            super().delete_entity_values(self._scoped(config), join_keys)

    def delete_table(self, config: RepoConfig, table: FeatureView) -> None:
        with _mapped_errors():
            super().delete_table(self._scoped(config), table)

    def _read_features_per_fv(self, config: RepoConfig, *args: Any, **kwargs: Any) -> None:
        with _mapped_errors():
            super()._read_features_per_fv(self._scoped(config), *args, **kwargs)

    async def _read_features_per_fv_async(self, config: RepoConfig, *args: Any, **kwargs: Any) -> None:
        await super()._read_features_per_fv_async(self._scoped(config), *args, **kwargs)

    def _get_client(self, online_store_config: RedisOnlineStoreConfig) -> redis.Redis:
        if self._client is None:
            self._client = redis.Redis.from_url(
                self._url(),
                socket_timeout=SOCKET_SECONDS,
                socket_connect_timeout=1,
                retry=Retry(NoBackoff(), 1),  # once, for connections that a restart left stale
            )
        return self._client

    async def _get_client_async(self, online_store_config: RedisOnlineStoreConfig) -> redis.asyncio.Redis:
        if self._client_async is None:
            self._client_async = redis.asyncio.Redis.from_url(
                self._url(), socket_timeout=SOCKET_SECONDS, socket_connect_timeout=1
            )
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


class _mapped_errors:  # noqa: N801
    """Turns Redis's connection errors into StoreUnavailableError."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (redis.ConnectionError, redis.TimeoutError, redis.AuthenticationError)):
            raise StoreUnavailableError(
                f"Redis does not answer ({error}); start it with `python -m feature_repo redis-start` "
                "or check VITRINE_REDIS_URL"
            ) from error


def _nanos(raw: bytes | None) -> int:
    if not raw:
        return -1
    stamp = Timestamp()
    stamp.ParseFromString(raw)
    return int(stamp.ToNanoseconds())
