"""Who is worked on now, who waits, and who is excess: a bound on requests in flight and on the queue before it."""

import asyncio
from collections import deque

from serving.spec_operation import OverloadSpec


class Admission:
    """Turns of one event loop. `admit` True must be followed by `leave`."""

    def __init__(self, spec: OverloadSpec) -> None:
        self._spec = spec
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.num_in_flight = 0

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    async def admit(self) -> bool:
        """Whether the caller has its turn, at the latest after `max_wait_ms`; False means that it is excess."""
        if self.num_in_flight < self._spec.max_in_flight and not self._waiting:
            self.num_in_flight += 1
            return True
        if len(self._waiting) >= self._spec.max_queue:
            return False
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._spec.max_wait_ms / 1000):
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
        self.num_in_flight -= 1

    def _given_up(self, turn: asyncio.Future[None]) -> bool:
        """Whether the turn had come all the same, in the moment in which the wait ended."""
        if turn.done() and not turn.cancelled():
            return True
        if turn in self._waiting:
            self._waiting.remove(turn)
        return False
