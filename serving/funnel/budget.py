"""The time of one request: what each stage may still take."""

from collections.abc import Callable
from time import perf_counter

from serving.spec_limits import STAGES, DeadlinesSpec


class Budget:
    """Counts from its making. Without `deadlines` time never runs out: for work off the request path."""

    def __init__(self, deadlines: DeadlinesSpec | None = None, now: Callable[[], float] = perf_counter) -> None:
        self._now = now
        self._began = now()
        self._request_ms = deadlines.request_ms if deadlines else None
        self._stage_ms = {stage: getattr(deadlines, f"{stage}_ms") for stage in STAGES} if deadlines else {}

    def seconds(self) -> float:
        """Time since the request began."""
        return self._now() - self._began

    def share(self, stage: str) -> float:
        """How much of its deadline the stage still has before the rules must run: 1 all of it, 0 nothing."""
        if self._request_ms is None:
            return 1.0
        left = self._request_ms - self._stage_ms["rerank"] - 1000 * self.seconds()
        return min(1.0, max(0.0, left / self._stage_ms[stage]))

    def left_seconds(self, stage: str) -> float | None:
        """The same in seconds, None without a deadline."""
        return None if self._request_ms is None else self.share(stage) * self._stage_ms[stage] / 1000

    def overrun(self, stage: str, seconds: float) -> tuple[str, ...]:
        """A remark where a stage took longer than its deadline."""
        limit = self._stage_ms.get(stage)
        if limit is None or 1000 * seconds <= limit:
            return ()
        return (f"overran its {limit:g} ms: {1000 * seconds:.1f} ms",)
