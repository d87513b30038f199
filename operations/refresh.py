"""The hourly job: posted events go into the log, new hours into the features, what became known into Redis."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from core.clock import Clock
from core.settings import Settings
from core.workspace import Workspace
from events.compact import compact
from events.lock import attempted
from feature_repo.build import build_features
from feature_repo.materialize import materialize
from feature_repo.stores.embedded import redis_url


@dataclass(frozen=True)
class Refresh:
    """What one refresh did; `hours` are the ends of the hours that were built, None where none was new."""

    num_events: int
    hours: tuple[datetime | None, datetime] | None
    num_written: int
    as_of: datetime
    seconds: float

    def line(self) -> str:
        """All of it in one line."""
        ends = [f"{hour:%Y-%m-%d %H:%M}" if hour else "the beginning" for hour in self.hours or ()]
        built = f"hours from {ends[0]} to {ends[1]} built" if ends else "no new hour"
        return (
            f"refreshed: {self.num_events:,} events compacted, {built}, {self.num_written:,} rows new to Redis, "
            f"as of {self.as_of:%Y-%m-%d %H:%M} UTC, {self.seconds:.1f} s"
        )


def refresh(settings: Settings, clock: Clock, on_step: Callable[[str], None] = lambda _: None) -> Refresh | None:
    """What was done up to now, None where another refresh of this workspace is under way.

    Now is the later of `clock`'s and the data's end, which posted events move on. Each step can be
    stopped and run again, and does nothing where nothing is new. Tells `on_step` what it is at.
    """
    workspace = settings.workspace
    with attempted(workspace.data, "refresh") as is_held:
        return _refresh(settings, workspace, clock, on_step) if is_held else None


def _refresh(settings: Settings, workspace: Workspace, clock: Clock, on_step: Callable[[str], None]) -> Refresh:
    started = time.monotonic()
    on_step("moving posted events into the log")
    moved = compact(workspace)
    on_step("building features")
    built = build_features(
        workspace, settings, clock, lambda view, rows, _: on_step(f"building features: {view}, {rows:,} rows")
    )
    on_step("materialising")
    redis_url(workspace, settings)
    done = materialize(
        workspace, _Later(clock, workspace.clock(settings.clock)), lambda v: on_step(f"{v.view} in Redis")
    )
    return Refresh(
        moved.num_events,
        built.hours,
        sum(view.num_written or 0 for view in done),
        done[0].until,
        time.monotonic() - started,
    )


@dataclass(frozen=True)
class _Later:
    """The later of two clocks: one that began with this process, one that knows of events posted since."""

    one: Clock
    other: Clock

    def now(self) -> datetime:
        return max(self.one.now(), self.other.now())
