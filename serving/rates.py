"""How often a key may call: one token bucket per key. Depends on nothing but a clock."""

from collections.abc import Callable
from typing import Protocol


class Buckets(Protocol):
    """A bucket per name holds one second's worth of calls, at least one, and refills at the name's rate."""

    def take(self, name: str, rate: float) -> float:
        """0 when the call may go on, else seconds until it may. `rate` in calls per second; 0 is no limit."""
        ...


class TokenBuckets:
    """The buckets of one process."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._buckets: dict[str, tuple[float, float]] = {}
        """Tokens and when they were counted, seconds."""

    def take(self, name: str, rate: float) -> float:
        if rate <= 0:
            return 0.0
        at = self._now()
        tokens, now = refilled(*self._buckets.get(name, (max(1.0, rate), at)), at, rate)
        is_allowed = tokens >= 1.0
        self._buckets[name] = (tokens - is_allowed, now)
        return 0.0 if is_allowed else (1.0 - tokens) / rate


def refilled(tokens: float, counted_at: float, now: float, rate: float) -> tuple[float, float]:
    """Tokens by now and when that is, seconds; never earlier than they were counted before."""
    now = max(now, counted_at)
    return min(max(1.0, rate), tokens + (now - counted_at) * rate), now
