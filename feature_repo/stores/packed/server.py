"""One Redis or one Redis Cluster: rows by key, read in one round trip, written by compare-and-set."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from core.errors import FeatureStoreError, StoreUnavailableError
from feature_repo.stores.packed.loops import ClientPerLoop
from feature_repo.stores.packed.script import BATCH_ROWS, WRITE_NEWER

TIMEOUTS: dict[str, Any] = {"socket_timeout": 5.0, "socket_connect_timeout": 1.0}
"""Longest waits for one answer and for a connection, in seconds; a batch of writes takes milliseconds."""
WINDOW = 2
"""Script calls under way at once: the client packs the next batch while the server writes one."""
DELETE_KEYS = 1000

Batch = tuple[Sequence[bytes], Sequence[bytes]]
"""Keys and rows, equally many."""


class RowServer(Protocol):
    """What the store needs of Redis. Errors come as StoreUnavailableError or FeatureStoreError."""

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Rows in the order of `keys`."""
        ...

    async def read_async(self, keys: Sequence[bytes]) -> list[bytes | None]: ...

    def write(self, batches: Iterable[Batch], ttl_seconds: int | None = None) -> Iterator[int]:
        """Writes what is newer than the stored row; yields how many rows of each batch were."""
        ...

    async def write_async(self, batch: Batch, ttl_seconds: int | None = None) -> int: ...

    def mark(self, key: bytes, value: bytes) -> None:
        """Sets one key that is no row."""
        ...

    def delete(self, pattern: bytes) -> int:
        """Deletes every key that matches the glob; returns how many."""
        ...

    async def close(self) -> None:
        """Closes the connections of the process and of the running event loop."""
        ...


@contextmanager
def mapped_errors() -> Iterator[None]:
    """Turns Redis's errors into the house's."""
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError, redis.AuthenticationError, OSError) as error:
        raise StoreUnavailableError(
            f"Redis does not answer ({error}); start it with `python -m feature_repo redis-start`, "
            "or check VITRINE_REDIS_URL or connection_string in feature_store.yaml"
        ) from error
    except redis.RedisError as error:
        raise FeatureStoreError(f"Redis refused a command: {error}; see the server's log") from error


def script_args(batch: Batch, ttl_seconds: int | None) -> list[Any]:
    """Arguments of the script after its hash."""
    keys, rows = batch
    return [len(keys), *keys, b"" if ttl_seconds is None else str(ttl_seconds).encode(), *rows]


def in_calls(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The same rows in batches that one script call may hold."""
    for keys, rows in batches:
        for start in range(0, len(keys), BATCH_ROWS):
            yield keys[start : start + BATCH_ROWS], rows[start : start + BATCH_ROWS]


class SingleServer:
    """A Redis reached by URL, `rediss://` and passwords included."""

    def __init__(self, url: str, **options: Any) -> None:
        options = TIMEOUTS | options
        # Once more, for connections that a restart left stale.
        self.client = redis.Redis.from_url(url, retry=Retry(NoBackoff(), 1), **options)
        self._async = ClientPerLoop(partial(redis.asyncio.Redis.from_url, url, **options))

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if not keys:
            return []
        with mapped_errors():
            return self.client.execute_command("MGET", *keys)

    async def read_async(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if not keys:
            return []
        with mapped_errors():
            return await self._async.client().execute_command("MGET", *keys)

    def read_packed(self, command: bytes) -> list[bytes | None]:
        """The answer to an MGET as Redis reads it from the wire: the same as `read`, without an object per key."""
        with mapped_errors():
            pool = self.client.connection_pool
            connection = pool.get_connection()
            try:
                return connection.retry.call_with_retry(
                    lambda: _exchange(connection, command), lambda _: connection.disconnect()
                )
            finally:
                pool.release(connection)

    async def read_packed_async(self, command: bytes) -> list[bytes | None]:
        with mapped_errors():
            pool = self._async.client().connection_pool
            connection = await pool.get_connection()
            try:
                await connection.send_packed_command(command)
                return await connection.read_response()
            except BaseException:
                await connection.disconnect()
                raise
            finally:
                await pool.release(connection)

    def write(self, batches: Iterable[Batch], ttl_seconds: int | None = None) -> Iterator[int]:
        with mapped_errors():
            sha = self.client.script_load(WRITE_NEWER)
            connection = self.client.connection_pool.get_connection()
        is_clean = False
        try:
            under_way: deque[int] = deque()
            for batch in in_calls(batches):
                with mapped_errors():
                    command = connection.pack_command("EVALSHA", sha, *script_args(batch, ttl_seconds))
                    connection.send_packed_command(command)
                    under_way.append(1)
                    if len(under_way) >= WINDOW:
                        under_way.popleft()
                        written = int(connection.read_response())
                    else:
                        continue
                yield written
            while under_way:
                under_way.popleft()
                with mapped_errors():
                    written = int(connection.read_response())
                yield written
            is_clean = True
        finally:
            if not is_clean:  # answers may be under way that nobody will read
                connection.disconnect()
            self.client.connection_pool.release(connection)

    async def write_async(self, batch: Batch, ttl_seconds: int | None = None) -> int:
        client, written = self._async.client(), 0
        with mapped_errors():
            sha = await client.script_load(WRITE_NEWER)
            for call in in_calls([batch]):
                written += int(await client.execute_command("EVALSHA", sha, *script_args(call, ttl_seconds)))
        return written

    def mark(self, key: bytes, value: bytes) -> None:
        with mapped_errors():
            self.client.set(key, value)

    def delete(self, pattern: bytes) -> int:
        with mapped_errors():
            return _delete(self.client, pattern)

    async def close(self) -> None:
        self.client.close()
        await self._async.close()


def _exchange(connection: Any, command: bytes) -> list[bytes | None]:
    connection.send_packed_command([command])
    try:
        return connection.read_response()
    except BaseException:  # an answer under way must not be taken for the next one's
        connection.disconnect()
        raise


def _delete(client: Any, pattern: bytes) -> int:
    num_deleted, waiting = 0, []
    for key in client.scan_iter(match=pattern, count=DELETE_KEYS):
        waiting.append(key)
        if len(waiting) >= DELETE_KEYS:
            num_deleted += client.unlink(*waiting)
            waiting = []
    return num_deleted + (client.unlink(*waiting) if waiting else 0)
