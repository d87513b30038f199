"""The platform's now. The only place that reads the wall clock.

A live product runs on the wall. Simulated and imported data ended in the past, so there the clock is
anchored: it starts at the data's last event when the process starts and runs from there, which keeps
time-to-lives, windows and post ages meaningful.
"""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Tells the platform's now, as an aware UTC instant."""

    def now(self) -> datetime: ...


@dataclass(frozen=True)
class WallClock:
    """The machine's own time."""

    def now(self) -> datetime:
        return datetime.now(UTC)


@dataclass(frozen=True)
class AnchoredClock:
    """Time that stood at `anchor_at` when this object was made and runs since."""

    anchor_at: datetime
    _started_seconds: float = field(default_factory=time.monotonic)

    def now(self) -> datetime:
        return self.anchor_at + timedelta(seconds=time.monotonic() - self._started_seconds)


@dataclass
class FrozenClock:
    """Time that stands still until told otherwise; for tests and batch replays."""

    at: datetime

    def now(self) -> datetime:
        return self.at
