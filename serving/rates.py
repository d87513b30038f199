"""How often a key may call: one token bucket per key. Depends on nothing but a clock."""

from collections.abc import Callable


class TokenBuckets:
    """A bucket per name holds one second's worth of calls, at least one, and refills at the name's rate."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._buckets: dict[str, tuple[float, float]] = {}
        """Tokens and when they were counted, seconds."""

    def take(self, name: str, rate: float) -> float:
        """0 when the call may go on, else seconds until it may. `rate` in calls per second; 0 is no limit."""
        if rate <= 0:
            return 0.0
        now, capacity = self._now(), max(1.0, rate)
        tokens, counted_at = self._buckets.get(name, (capacity, now))
        tokens = min(capacity, tokens + (now - counted_at) * rate)
        is_allowed = tokens >= 1.0
        self._buckets[name] = (tokens - 1.0 if is_allowed else tokens, now)
        return 0.0 if is_allowed else (1.0 - tokens) / rate
