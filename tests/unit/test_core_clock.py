import time
from datetime import UTC, datetime, timedelta

from core.clock import AnchoredClock, FrozenClock, WallClock

AT = datetime(2026, 3, 15, tzinfo=UTC)


def test_anchored_clock_starts_at_the_anchor_and_runs():
    clock = AnchoredClock(AT)
    first = clock.now()
    time.sleep(0.01)
    assert AT <= first < clock.now() < AT + timedelta(seconds=60)


def test_wall_clock_is_aware_utc():
    assert WallClock().now().utcoffset() == timedelta(0)


def test_frozen_clock_stands_still():
    clock = FrozenClock(AT)
    assert clock.now() == clock.now() == AT
