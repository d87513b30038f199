"""Calls at a rate that the server does not decide: each leaves when its time has come, whatever became of the others.

    python -m tests.feed_load < plan.json > answers.json

A process of its own, so that the server's tests do not wait for it; plain sockets, because it shares the machine.
"""

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

import numpy as np
import uvloop

MOST_CONNECTIONS = 400
"""Beyond them a call waits for one, and the wait counts."""


@dataclass(frozen=True)
class Plan:
    """`rate` calls per second, exponentially spaced, on any connection; 0: `connections` of them, never idle."""

    port: int
    users: tuple[int, ...]
    seconds: float
    rate: float = 0.0
    connections: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Answer:
    """When the call was due in seconds after the start, its latency from then on, and what came: status 0 is none."""

    at: float
    ms: float
    status: int
    degraded: tuple[str, ...] = ()
    posts: int = 0
    retry_after: bool = False

    @property
    def is_ranked(self) -> bool:
        return self.status == 200 and not {"precomputed", "popular"} & set(self.degraded)


class _Connection:
    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, path: str) -> tuple[int, bytes, bytes]:
        """Status, head and body. Raises OSError, EOFError or ValueError where the server hangs up."""
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
            reader, writer = self._streams
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            at = head.index(b"content-length:") + 15
            body = await reader.readexactly(int(head[at : head.index(b"\r\n", at)]))
        except (OSError, EOFError, ValueError):
            self.close()
            raise
        if b"connection: close" in head:
            self.close()
        return int(head[9:12]), head, body

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


class _Load:
    def __init__(self, plan: Plan) -> None:
        self._plan, self._answers, self._next = plan, list[Answer](), 0
        self._free: asyncio.LifoQueue[_Connection] = asyncio.LifoQueue()
        self._num_open = 0

    async def run(self) -> list[Answer]:
        self._began = time.perf_counter()
        if self._plan.rate:
            await self._at_rate()
        else:
            await asyncio.gather(*(self._busy(_Connection(self._plan.port)) for _ in range(self._plan.connections)))
        return self._answers

    async def _busy(self, connection: _Connection) -> None:
        while (at := time.perf_counter() - self._began) < self._plan.seconds:
            await self._ask(connection, at)

    async def _at_rate(self) -> None:
        rng, at, under_way = np.random.default_rng(self._plan.seed), 0.0, set[asyncio.Task[None]]()
        while at < self._plan.seconds:
            await asyncio.sleep(max(0.0, self._began + at - time.perf_counter()))
            task = asyncio.ensure_future(self._one(at))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            at += rng.exponential(1 / self._plan.rate)
        await asyncio.gather(*under_way)

    async def _one(self, at: float) -> None:
        if self._free.empty() and self._num_open < MOST_CONNECTIONS:
            self._num_open += 1
            self._free.put_nowait(_Connection(self._plan.port))
        connection = await self._free.get()
        await self._ask(connection, at)
        self._free.put_nowait(connection)

    async def _ask(self, connection: _Connection, at: float) -> None:
        user = self._plan.users[self._next % len(self._plan.users)]
        self._next += 1
        try:
            status, head, body = await connection.ask(f"/feed?user_id={user}&limit=20")
        except (OSError, EOFError, ValueError):
            self._answers.append(Answer(at, self._ms(at), 0))
            return
        ms, page = self._ms(at), {}
        if status == 200:
            start = body.index(b'"degraded":') + 11
            page = {"degraded": tuple(json.loads(body[start : body.index(b"]", start) + 1]))}
            page["posts"] = body.count(b'"post_id":')
        self._answers.append(Answer(at, ms, status, retry_after=b"retry-after:" in head, **page))

    def _ms(self, at: float) -> float:
        return 1000 * (time.perf_counter() - self._began - at)


def answers(plan: Plan) -> list[Answer]:
    """What came of one plan, asked from a process of its own."""
    command = [sys.executable, "-m", "tests.feed_load"]
    done = subprocess.run(command, input=json.dumps(asdict(plan)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [Answer(**{**one, "degraded": tuple(one["degraded"])}) for one in json.loads(done.stdout)]


if __name__ == "__main__":
    given = json.load(sys.stdin)
    plan_ = Plan(**{**given, "users": tuple(given["users"])})
    json.dump([asdict(one) for one in uvloop.run(_Load(plan_).run())], sys.stdout)
