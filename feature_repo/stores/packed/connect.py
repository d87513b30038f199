"""Finds the Redis of a Feast repo: by `connection_string`, or the one of the Vitrine workspace."""

from typing import Any

from feast.infra.online_stores.helpers import compute_versioned_name
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.repo_config import RepoConfig

from core.clock import Clock, WallClock
from core.errors import ConfigError
from core.settings import Settings
from feature_repo.store import workspace_of
from feature_repo.stores.embedded import redis_url
from feature_repo.stores.packed.keys import KeySpace
from feature_repo.stores.packed.server import RowServer, SingleServer


def key_space(config: RepoConfig) -> KeySpace:
    """Names of this repo's rows: the project, and in a workspace the dataset too, so that datasets share a server."""
    options = config.online_store
    project = config.project if options.connection_string else f"{config.project}:{workspace_of(config).root.name}"
    return KeySpace(project, options.redis_type == "redis_cluster")


def view_name(config: RepoConfig, view: Any) -> str:
    """Name of the view's rows, with its version where Feast keeps versions apart online."""
    return str(compute_versioned_name(view, config.registry.enable_online_feature_view_versioning))


def open_server(config: RepoConfig, wait_seconds: float | None = None) -> RowServer:
    """A client of the repo's Redis; starts the embedded one where the workspace has no other.

    `wait_seconds`: longest wait for one answer, None for the client's own.
    """
    options = config.online_store
    if options.connection_string:
        url, extra = _parsed(options.connection_string)
    else:
        url, extra = redis_url(workspace_of(config), Settings()), {}
    if wait_seconds is not None:
        extra = {"socket_timeout": wait_seconds, "socket_connect_timeout": wait_seconds, **extra}
    if options.redis_type == "redis_cluster":
        from feature_repo.stores.packed.cluster import ClusterServer

        return ClusterServer(url, **extra)
    return SingleServer(url, **extra)


def clock_of(config: RepoConfig) -> Clock:
    """The clock that ages are told by: the workspace's, whose data may have ended in the past, else the wall."""
    if not config.online_store.connection_string:
        workspace = workspace_of(config)
        if workspace.manifest_path.exists():
            return workspace.clock(Settings().clock)
    return WallClock()


def _parsed(connection_string: str) -> tuple[str, dict[str, Any]]:
    """URL and options of either form of a connection string."""
    if "://" in connection_string:
        return connection_string, {}
    nodes, options = RedisOnlineStore._parse_connection_string(connection_string)
    if not nodes or set(nodes[0]) != {"host", "port"}:
        raise ConfigError(
            "connection_string of the online store names no host:port; expected redis://:password@host:port/db "
            "or host:port,password=...,ssl=true"
        )
    scheme = "rediss" if options.pop("ssl", False) else "redis"
    if "password" in options:  # Feast reads a password of digits as a number
        options["password"] = str(options["password"])
    return f"{scheme}://{nodes[0]['host']}:{nodes[0]['port']}", options
