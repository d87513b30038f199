"""Who is worked on now, who waits, and who is excess: a bound on requests in flight and on the queue before it."""

import asyncio
import math
from collections import deque

from serving.spec_operation import OverloadSpec

BUSY_SHARE = 0.8
"""Share of the time with every turn taken from which on more is asked for than can be done. At 70 % of what can be
done it is about a half."""
_MEMORY_SECONDS = 0.5


class Admission:
    """Turns of one event loop. `admit` True must be followed by `leave`.

    A burst may queue for `max_wait_ms`. Where more keeps coming than can be done, waiting longer than `busy_wait_ms`
    would only make every answer late.
    """

    def __init__(self, spec: OverloadSpec) -> None:
        self._spec = spec
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._num_in_flight = 0
        self._busy_share = 0.0
        self._busy_as_of = 0.0

    @property
    def num_in_flight(self) -> int:
        return self._num_in_flight

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    async def admit(self) -> bool:
        """Whether the caller has its turn; False means that it is excess."""
        if self._num_in_flight < self._spec.max_in_flight and not self._waiting:
            self._count(1)
            return True
        if len(self._waiting) >= self._spec.max_queue:
            return False
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._patience_seconds()):
                await turn
        except TimeoutError:
            return self._given_up(turn)
        except asyncio.CancelledError:
            if self._given_up(turn):
                self.leave()
            raise
        return True

    def leave(self) -> None:
        """Passes the turn on to who waits longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._count(-1)

    def _count(self, change: int) -> None:
        self._note_busy()
        self._num_in_flight += change

    def _note_busy(self) -> None:
        """Takes the time since the last change into `_busy_share`, a running mean that forgets exponentially."""
        now = asyncio.get_running_loop().time()
        is_full = float(self._num_in_flight >= self._spec.max_in_flight)
        kept = math.exp((self._busy_as_of - now) / _MEMORY_SECONDS)
        self._busy_share, self._busy_as_of = is_full + (self._busy_share - is_full) * kept, now

    def _patience_seconds(self) -> float:
        self._note_busy()
        is_busy = self._busy_share > BUSY_SHARE
        return min(self._spec.max_wait_ms, self._spec.busy_wait_ms if is_busy else math.inf) / 1000

    def _given_up(self, turn: asyncio.Future[None]) -> bool:
        """Whether the turn had come all the same, in the moment in which the wait ended."""
        if turn.done() and not turn.cancelled():
            return True
        if turn in self._waiting:
            self._waiting.remove(turn)
        return False
