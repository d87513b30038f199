"""State of the online store: whether Redis answers, what it holds, and how far it was materialised."""

from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from core.settings import Settings
from feature_repo.stores.embedded import running_endpoint
from operations.status_items import Item, size


def online_store_items(settings: Settings) -> list[Item]:
    """Redis with its memory and keys; nothing is started, and no address or password is shown."""
    own = settings.redis_url is not None
    url = settings.redis_url.get_secret_value() if settings.redis_url is not None else _embedded_url(settings)
    kind = "Redis at VITRINE_REDIS_URL" if own else "embedded Redis"
    if url is None:
        return [Item(kind, "not running; every target that needs it starts it", "degraded", "make redis")]
    try:
        memory, keys = _facts(url)
    except (redis.RedisError, OSError, ValueError) as error:
        return [Item(kind, f"does not answer: {type(error).__name__}", "degraded", "" if own else "make redis")]
    if keys == 0:
        return [Item(kind, f"up, {size(memory)}, empty", "missing", "make materialize")]
    return [Item(kind, f"up, {size(memory)}, {keys:,} keys")]


def _embedded_url(settings: Settings) -> str | None:
    endpoint = running_endpoint(settings.workspace)
    return endpoint.url if endpoint is not None else None


def _facts(url: str) -> tuple[float, int]:
    """Bytes of memory in use and number of keys."""
    client = redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0))
    try:
        info: dict[str, Any] = client.info("memory")
        return float(info["used_memory"]), int(client.dbsize())
    finally:
        client.close()
