"""The same rows in a Redis Cluster: one MGET or script call per hash tag, pipelined node by node."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import redis

from feature_repo.stores.packed.keys import tag_of
from feature_repo.stores.packed.loops import ClientPerLoop
from feature_repo.stores.packed.script import WRITE_NEWER
from feature_repo.stores.packed.server import DELETE_KEYS, TIMEOUTS, Batch, in_calls, mapped_errors, script_args

_SHA = hashlib.sha1(WRITE_NEWER.encode(), usedforsecurity=False).hexdigest()
"""What Redis calls the script."""


class ClusterServer:
    """A Redis Cluster reached through any of its nodes; follows moved slots by itself."""

    def __init__(self, url: str, **options: Any) -> None:
        options = TIMEOUTS | options
        with mapped_errors():
            self.client = redis.RedisCluster.from_url(url, **options)
        self._async = ClientPerLoop(partial(redis.asyncio.RedisCluster.from_url, url, **options))

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        groups = _by_tag(keys)
        with mapped_errors(), self.client.pipeline() as pipe:
            for places in groups:
                pipe.execute_command("MGET", *(keys[i] for i in places))
            return _in_order(len(keys), groups, pipe.execute())

    async def read_async(self, keys: Sequence[bytes]) -> list[bytes | None]:
        groups = _by_tag(keys)
        with mapped_errors():
            pipe = self._async.client().pipeline()
            for places in groups:
                pipe.execute_command("MGET", *(keys[i] for i in places))
            return _in_order(len(keys), groups, await pipe.execute() if groups else [])

    def write(self, batches: Iterable[Batch], ttl_seconds: int | None = None) -> Iterator[int]:
        with mapped_errors():
            self.client.script_load(WRITE_NEWER)
        for batch in batches:
            with mapped_errors(), self.client.pipeline() as pipe:
                for call in _calls(batch):
                    pipe.execute_command("EVALSHA", _SHA, *script_args(call, ttl_seconds))
                written = sum(map(int, pipe.execute()))
            yield written

    async def write_async(self, batch: Batch, ttl_seconds: int | None = None) -> int:
        client = self._async.client()
        with mapped_errors():
            await client.initialize()
            for node in client.get_primaries():
                await client.execute_command("SCRIPT LOAD", WRITE_NEWER, target_nodes=node)
            pipe, calls = client.pipeline(), _calls(batch)
            for call in calls:
                pipe.execute_command("EVALSHA", _SHA, *script_args(call, ttl_seconds))
            return sum(map(int, await pipe.execute() if calls else []))

    def mark(self, key: bytes, value: bytes) -> None:
        with mapped_errors():
            self.client.set(key, value)

    def delete(self, pattern: bytes) -> int:
        num_deleted = 0
        with mapped_errors():
            for node in self.client.get_primaries():
                waiting: dict[bytes, list[bytes]] = {}
                for key in self.client.scan_iter(match=pattern, count=DELETE_KEYS, target_nodes=node):
                    waiting.setdefault(tag_of(key), []).append(key)
                num_deleted += sum(int(self.client.unlink(*keys)) for keys in waiting.values())
        return num_deleted

    async def close(self) -> None:
        self.client.close()
        await self._async.close()


def _by_tag(keys: Sequence[bytes]) -> list[list[int]]:
    """Places of the keys of each hash tag; those of one tag lie in one slot."""
    groups: dict[bytes, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(tag_of(key), []).append(place)
    return list(groups.values())


def _in_order(num_keys: int, groups: list[list[int]], answers: list[list[bytes | None]]) -> list[bytes | None]:
    rows: list[bytes | None] = [None] * num_keys
    for places, answer in zip(groups, answers, strict=True):
        for place, row in zip(places, answer, strict=True):
            rows[place] = row
    return rows


def _calls(batch: Batch) -> list[Batch]:
    keys, rows = batch
    return list(in_calls(([keys[i] for i in places], [rows[i] for i in places]) for places in _by_tag(keys)))
