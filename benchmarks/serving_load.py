"""A load generator of its own process: keep-alive connections, closed loop or arrivals at a given rate.

    python -m benchmarks.serving_load < plan.json > outcome.json

Plain sockets under uvloop, so that it takes little from the machine that it shares with the server; its own
processor time is part of the outcome.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle

import numpy as np
import uvloop

CURSOR = b'"next_cursor":"'
DEGRADED = b'"degraded":["'


@dataclass(frozen=True)
class Plan:
    """What to ask for. `paths` are asked in turn."""

    port: int
    paths: tuple[str, ...]
    seconds: float
    connections: int
    rate: float = 0.0
    """Arrivals per second, exponentially spaced; 0 keeps every connection busy."""
    limit: int = 0
    """Most requests of a closed loop; 0 is no limit."""
    is_scrolling: bool = False
    """Each connection asks for one first page, uncounted, and then for its second and third again and again."""
    seed: int = 0


@dataclass
class Outcome:
    """Answers per second and their latencies in milliseconds; waiting for a free connection counts.

    An answer that does without a part of the funnel is an error.
    """

    num_answers: int = 0
    num_errors: int = 0
    seconds: float = 0.0
    own_cpu_seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return self.num_answers / self.seconds

    def percentile_ms(self, q: float) -> float:
        """Latency that `q` percent of the answers stay under."""
        return float(np.percentile(self.latencies_ms, q))


class _Connection:
    """One keep-alive connection that speaks as much HTTP as uvicorn's answers need."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, path: str) -> tuple[int, bytes]:
        """Status and body."""
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = await self._reader.readuntil(b"\r\n\r\n")
        at = head.lower().index(b"content-length:") + 15
        body = await self._reader.readexactly(int(head[at : head.index(b"\r\n", at)]))
        return int(head[9:12]), body

    def close(self) -> None:
        self._writer.close()


class _Load:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._outcome = Outcome()
        self._next = 0

    async def run(self) -> Outcome:
        plan, outcome = self._plan, self._outcome
        free: asyncio.Queue[_Connection] = asyncio.Queue()
        for _ in range(plan.connections):
            free.put_nowait(_Connection(*await asyncio.open_connection("127.0.0.1", plan.port)))
        began, cpu = time.perf_counter(), time.process_time()
        end = began + plan.seconds
        if plan.rate:
            await self._arrivals(free, end)
        else:
            await asyncio.gather(*(self._busy(free.get_nowait(), free, end) for _ in range(plan.connections)))
        outcome.seconds = time.perf_counter() - began
        outcome.own_cpu_seconds = time.process_time() - cpu
        while not free.empty():
            free.get_nowait().close()
        return outcome

    async def _busy(self, connection: _Connection, free: "asyncio.Queue[_Connection]", end: float) -> None:
        paths = await self._scrolled(connection) if self._plan.is_scrolling else None
        while time.perf_counter() < end and not self._is_done():
            await self._ask(connection, next(paths) if paths else self._path(), time.perf_counter())
        free.put_nowait(connection)

    async def _scrolled(self, connection: _Connection) -> Iterator[str]:
        """Paths of a visit's second and third page, for ever."""
        path = self._path()
        _, body = await connection.ask(path)
        second = f"{path}&cursor={_cursor(body)}"
        _, body = await connection.ask(second)
        return cycle([second, f"{path}&cursor={_cursor(body)}"])

    async def _arrivals(self, free: "asyncio.Queue[_Connection]", end: float) -> None:
        rng = np.random.default_rng(self._plan.seed)
        at, waiting = time.perf_counter(), set[asyncio.Task[None]]()
        while at < end:
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            task = asyncio.ensure_future(self._one(free, at))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
            at += rng.exponential(1 / self._plan.rate)
        await asyncio.gather(*waiting)

    async def _one(self, free: "asyncio.Queue[_Connection]", arrived: float) -> None:
        connection = await free.get()
        await self._ask(connection, self._path(), arrived)
        free.put_nowait(connection)

    def _is_done(self) -> bool:
        return 0 < self._plan.limit <= self._outcome.num_answers

    def _path(self) -> str:
        path = self._plan.paths[self._next % len(self._plan.paths)]
        self._next += 1
        return path

    async def _ask(self, connection: _Connection, path: str, began: float) -> None:
        status, body = await connection.ask(path)
        self._outcome.latencies_ms.append((time.perf_counter() - began) * 1000)
        self._outcome.num_answers += 1
        self._outcome.num_errors += status != 200 or DEGRADED in body


def _cursor(body: bytes) -> str:
    at = body.index(CURSOR) + len(CURSOR)
    return body[at : body.index(b'"', at)].decode()


async def load(plan: Plan) -> Outcome:
    """The outcome of one plan. Raises OSError when the server hangs up."""
    return await _Load(plan).run()


def plan_from(raw: dict[str, object]) -> Plan:
    """The plan that `asdict` and JSON made of one."""
    paths: Sequence[str] = raw["paths"]  # type: ignore[assignment]
    return Plan(**{**raw, "paths": tuple(paths)})  # type: ignore[arg-type]


if __name__ == "__main__":
    print(json.dumps(asdict(uvloop.run(load(plan_from(json.load(sys.stdin)))))))
