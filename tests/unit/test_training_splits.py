"""Splits by time, and the held-out tenth of users."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from core.errors import InputError
from training.splits import SPLITS, SplitConfig, is_held_out, time_split

FIRST = datetime(2026, 1, 1, tzinfo=UTC)


def seconds(*moments: datetime) -> np.ndarray:
    return np.array([m.timestamp() for m in moments])


def test_parts_follow_each_other_in_time_and_meet_at_their_edges() -> None:
    split = time_split(FIRST, FIRST + timedelta(days=14, seconds=-1), SplitConfig())
    day = lambda d: FIRST + timedelta(days=d)  # noqa: E731
    codes = split.assign(seconds(day(1.99), day(2), day(11.49), day(11.5), day(12), day(13), day(13.999), day(14)))
    names = [SPLITS[c] if c >= 0 else None for c in codes]
    assert names == [None, "train", "train", "validation", "calibration", "test", "test", None]


def test_no_row_before_another_parts_start_is_assigned_to_it() -> None:
    split = time_split(FIRST, FIRST + timedelta(days=10), SplitConfig(validation_days=0, test_days=2))
    at = np.sort(np.random.default_rng(0).uniform(FIRST.timestamp(), (FIRST + timedelta(days=10)).timestamp(), 5000))
    codes = split.assign(at)
    assert (np.diff(codes) >= 0).all()
    assert not (codes == SPLITS.index("validation")).any()


def test_days_count_back_from_the_end_so_that_local_days_stay_whole() -> None:
    # A log kept in UTC+8 ends at 15:59:59 UTC; its last local day begins at 16:00 UTC.
    last = datetime(2022, 5, 4, 15, 59, 59, tzinfo=UTC)
    split = time_split(datetime(2022, 4, 24, 16, tzinfo=UTC), last, SplitConfig(0.0, 0.0, 1.0, 2.0))
    assert datetime.fromtimestamp(split.test_from, UTC) == datetime(2022, 5, 2, 16, tzinfo=UTC)
    assert datetime.fromtimestamp(split.calibration_from, UTC) == datetime(2022, 5, 1, 16, tzinfo=UTC)


def test_the_last_event_is_inside_the_test_part_even_on_the_full_hour() -> None:
    last = FIRST + timedelta(days=14)
    split = time_split(FIRST, last, SplitConfig())
    assert split.assign(seconds(last)).tolist() == [SPLITS.index("test")]


def test_a_log_too_short_to_train_on_is_refused_with_what_it_needs() -> None:
    with pytest.raises(InputError, match=r"leaves no time to train.*needs more than 4\.5 days"):
        time_split(FIRST, FIRST + timedelta(days=4), SplitConfig())


def test_a_tenth_of_users_is_held_out_and_always_the_same_tenth() -> None:
    ids = np.arange(200_000)
    held = is_held_out(ids)
    assert abs(held.mean() - 0.1) < 0.003
    assert np.array_equal(held[::-1], is_held_out(ids[::-1]))
    assert is_held_out(np.array([0, 1, 2, 3])).shape == (4,)


def test_held_out_users_are_spread_over_the_ids() -> None:
    shares = is_held_out(np.arange(100_000)).reshape(10, -1).mean(axis=1)
    assert shares.min() > 0.085
    assert shares.max() < 0.115
