"""The bare parts of a request: what its searches, reads and forward passes cost with nothing around them.

One process serves the same users as the measured server. The inputs of each part are kept as they pass, and given
again to the part alone: queries with their masks to FAISS, commands to a socket, encoded tensors to the networks.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any
from unittest.mock import patch
from urllib.parse import urlparse

import hiredis
import numpy as np
import redis
import torch

from benchmarks.serving_servers import cpu_seconds
from core.settings import Settings
from events.served import ServedLog
from feature_repo.stores.packed.server import SingleServer
from models.ann import PostIndex, padded
from models.encode import EncodedSide
from models.graph import Graph
from serving.bootstrap import Runtime, build_runtime
from serving.funnel.first_stage import VectorRanker
from serving.funnel.request import FeedRequest

PASSES = 5
Calls = dict[str, list[tuple[Any, ...]]]


@dataclass(frozen=True)
class BareParts:
    """Milliseconds of processor time per request, Redis's included in its part."""

    search: float
    redis: float
    user_tower: float
    """Retrieval's user vector."""
    first_stage: float
    """The user's vector and its product with the candidates' vectors."""
    second_stage: float
    torch_forwards: float
    """What the forward passes of both stages cost in torch, without the exported graphs."""
    first_stage_candidates: float
    second_stage_candidates: float
    redis_bytes: float


def measured(settings: Settings, redis_process: int, users: Sequence[int], warm_up: int) -> BareParts:
    """The parts of requests of `users` after the first `warm_up` of them have filled the caches."""
    with _serving(settings) as (runtime, ask), torch.inference_mode():
        for user in users[:warm_up]:
            ask(user)
        with _recorded(runtime) as calls:
            for user in users[warm_up:]:
                ask(user)
        num = len(users) - warm_up
        candidates = sum(len(rows) for _, rows in calls["candidates"]) / num
        posts = sum(len(sides["post"]["numeric"]) for _, sides in calls["second_stage"]) / num
        raw_redis, num_bytes = _redis_ms(settings, redis_process, calls["redis"], num)
        first, second = runtime.parts.first_stage.tower.module, runtime.parts.second_stage.module  # type: ignore[union-attr]
        return BareParts(
            _ms(calls["search"], lambda raw, q, k, parameters: raw.search(q, k, params=parameters), num),
            raw_redis,
            _ms(calls["user_tower"], Graph.run, num),
            _ms(calls["first_stage"], Graph.run, num) + _ms(calls["candidates"], _products, num),
            _ms(calls["second_stage"], Graph.run, num),
            _ms(calls["first_stage"], lambda _, sides: first.user_vectors(*_tensors(sides)), num)
            + _ms(calls["second_stage"], lambda _, sides: second(*_tensors(sides)), num),
            candidates,
            posts,
            num_bytes,
        )


@contextmanager
def _serving(settings: Settings) -> Iterator[tuple[Runtime, Callable[[int], object]]]:
    runtime = build_runtime(settings)
    served = ServedLog(settings.workspace.root / "served-parts.db")
    ids = iter(range(1, 2**62))
    feed = runtime.open_feed(served, lambda: next(ids))
    now = runtime.clock.now()
    try:
        yield runtime, lambda user: feed.page(FeedRequest(user, now, limit=20))
    finally:
        feed.close()
        served.close()
        runtime.close()


@contextmanager
def _recorded(runtime: Runtime) -> Iterator[Calls]:
    """Arguments of each part's calls while the block runs."""
    calls: Calls = defaultdict(list)
    parts: Any = runtime.parts
    part_of = {
        id(bundle.graph): part
        for part, bundle in (
            ("user_tower", parts.tower),
            ("first_stage", parts.first_stage.tower),
            ("second_stage", parts.second_stage),
        )
    }
    search, read, run, scores = PostIndex.search_rows, SingleServer.read_packed, Graph.run, VectorRanker.scores

    def searching(self: Any, queries: Any, k: int, eligible: Any = None) -> Any:
        queries_BD = padded(np.array(queries, dtype=np.float32), self._index.d)
        calls["search"].append((self._index, queries_BD, k, self._parameters(eligible)))
        return search(self, queries, k, eligible)

    def reading(self: Any, command: bytes) -> Any:
        calls["redis"].append((bytes(command),))
        return read(self, command)

    def running(self: Any, sides: Any) -> Any:
        calls[part_of[id(self)]].append((self, sides))
        return run(self, sides)

    def scoring(self: Any, state: Any, rows: Any) -> Any:
        calls["candidates"].append((self._vectors, rows))
        return scores(self, state, rows)

    with (
        patch.object(PostIndex, "search_rows", searching),
        patch.object(SingleServer, "read_packed", reading),
        patch.object(VectorRanker, "scores", scoring),
        patch.object(Graph, "run", running),
    ):
        yield calls


def _tensors(sides: dict[Any, Any]) -> list[EncodedSide]:
    return [EncodedSide.of_arrays(arrays) for arrays in sides.values()]


def _products(vectors: Any, rows: Any) -> object:
    return vectors[rows] @ vectors[rows[0]]


def _ms(calls: Sequence[tuple[Any, ...]], part: Callable[..., object], num_requests: int) -> float:
    taken = []
    for _ in range(PASSES):
        began = time.process_time()
        for arguments in calls:
            part(*arguments)
        taken.append(time.process_time() - began)
    return median(taken) / num_requests * 1000


def _redis_ms(
    settings: Settings, process: int, calls: Sequence[tuple[bytes]], num_requests: int
) -> tuple[float, float]:
    """Milliseconds of client and server per request, and bytes of the answers."""
    where = urlparse(settings.redis_url.get_secret_value())  # type: ignore[union-attr]
    with redis.Redis(host=str(where.hostname), port=int(where.port or 0)) as client:
        before = client.info("stats")["total_net_output_bytes"]
        connection = client.connection_pool.get_connection()
        raw, reader = connection._sock, hiredis.Reader()

        def exchange(command: bytes) -> object:
            raw.sendall(command)
            while (answer := reader.gets()) is False:
                reader.feed(raw.recv(1 << 20))
            return answer

        spent = cpu_seconds([process])
        own = _ms(calls, exchange, num_requests)
        spent = (cpu_seconds([process]) - spent) / PASSES / num_requests * 1000
        client.connection_pool.release(connection)
        num_bytes = client.info("stats")["total_net_output_bytes"] - before
    return own + spent, num_bytes / PASSES / num_requests
