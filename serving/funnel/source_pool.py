"""Threads for sources that may be slow: each source has its own few, so that one that hangs takes none of another's.

The threads are daemons: a source that never comes back must not keep the process from ending, as the threads of
`concurrent.futures` would.
"""

from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Lock, Thread
from time import perf_counter
from typing import Generic, NamedTuple, TypeVar

from core.errors import DeadlineError

T = TypeVar("T")

WIDTH = 4
"""Threads per source: calls that run at once, and the most that a source which hangs can hold."""


class Timed(NamedTuple, Generic[T]):
    """What a call gave, and how long it ran, in seconds."""

    value: T
    seconds: float


class SourcePool:
    """The threads of a process's sources by name; shared by all funnels, so that a new spec starts none anew."""

    def __init__(self, width: int = WIDTH) -> None:
        self._width = width
        self._lanes: dict[str, _Lane] = {}
        self._lock = Lock()

    def begin(self, name: str, call: Callable[[], T]) -> "Call[T]":
        """Starts `call` on a thread of `name`. Raises DeadlineError at once while late calls hold all of them."""
        with self._lock:
            lane = self._lanes.get(name) or self._lanes.setdefault(name, _Lane(name, self._width))
        return Call(lane, call)


class Call(Generic[T]):
    """A call under way. What it gives after its deadline is thrown away."""

    def __init__(self, lane: "_Lane", call: Callable[[], T]) -> None:
        self._lane = lane
        self._began = perf_counter()
        self._future: Future[Timed[T]] = lane.run(call)

    def result(self, deadline_seconds: float) -> Timed[T]:
        """The outcome. Raises DeadlineError `deadline_seconds` after the call began, or what the call raised."""
        left = max(0.0, deadline_seconds - (perf_counter() - self._began))
        try:
            return self._future.result(timeout=left)
        except TimeoutError:
            if self._future.done():  # just now, or it was the call itself that timed out on something
                return self._future.result()
            self._lane.give_up(self._future)
            raise DeadlineError(f"later than {1000 * deadline_seconds:.0f} ms") from None


class _Lane:
    """The threads of one source and the calls that wait for them."""

    def __init__(self, name: str, width: int) -> None:
        self._width = width
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._num_hanging = 0
        self._lock = Lock()
        for number in range(width):
            Thread(target=self._work, name=f"source-{name}-{number}", daemon=True).start()

    def run(self, call: Callable[[], T]) -> "Future[Timed[T]]":
        if self._num_hanging >= self._width:
            raise DeadlineError("earlier calls still hang")
        future: Future[Timed[T]] = Future()
        self._calls.put(lambda: _settle(future, call))
        return future

    def give_up(self, future: "Future[Timed[T]]") -> None:
        """Forgets a call: one that waits never runs, one that runs counts as hanging until it ends."""
        if future.cancel():
            return
        with self._lock:
            self._num_hanging += 1
        future.add_done_callback(self._came_back)

    def _came_back(self, future: "Future[Timed[T]]") -> None:
        with self._lock:
            self._num_hanging -= 1

    def _work(self) -> None:
        while True:
            self._calls.get()()


def _settle(future: "Future[Timed[T]]", call: Callable[[], T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    began = perf_counter()
    try:
        value = call()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(Timed(value, perf_counter() - began))
