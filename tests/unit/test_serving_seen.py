"""What users have seen: nothing is forgotten within the bounds, and memory keeps to them."""

from datetime import timedelta

import numpy as np
import pytest

from events.journal import Journal, JournalEvent
from serving.controls import JournalControls
from serving.live.seen import FALSE_POSITIVES, GENERATION, MAX_USERS, RECENT, SeenFilter, SeenPosts, matcher
from serving.live.view import LiveSnapshot
from tests.serving_fakes import AS_OF, make_snapshot

PER_USER = RECENT * (4 + 8) + 2 * 32_768 // 8


def seen_of(rows, at=100.0):
    seen = SeenPosts()
    seen.add(np.asarray(rows, dtype=np.int64), np.full(len(rows), at))
    return seen


def test_up_to_the_ring_everything_is_exact():
    seen = seen_of(range(RECENT))
    assert seen.recent(0.0).tolist() == list(range(RECENT))
    assert seen.faded(0.0) == ()


def test_what_lies_before_the_window_counts_no_more():
    seen = seen_of([1, 2], at=50.0)
    seen.add(np.array([3]), np.array([70.0]))
    assert seen.recent(60.0).tolist() == [3]
    old = seen_of(range(RECENT + 10), at=50.0)
    assert old.faded(60.0) == ()
    assert len(old.faded(40.0)) == 1


@pytest.mark.parametrize("batch", [1, 7, 500, 5_000])
def test_no_seen_post_is_forgotten_while_two_filters_hold(batch):
    rows = np.random.default_rng(1).permutation(1_000_000)[: RECENT + GENERATION]
    seen = SeenPosts()
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        seen.add(part, np.full(len(part), 100.0))
    matches = matcher(seen.faded(0.0))
    assert np.all(np.isin(rows, seen.recent(0.0)) | matches(rows))


def test_unseen_posts_are_taken_for_seen_as_rarely_as_stated():
    rng = np.random.default_rng(2)
    rows = rng.permutation(1_000_000)
    seen = seen_of(rows[: RECENT + 2 * GENERATION])
    assert len(seen.faded(0.0)) == 2
    share = matcher(seen.faded(0.0))(rows[100_000:]).mean()
    assert pytest.approx(0.0011, abs=0.0001) == FALSE_POSITIVES
    assert share < 1.3 * FALSE_POSITIVES


def test_a_million_seen_pairs_of_heavy_users_stay_within_the_bound_per_user():
    seen, rng = SeenFilter(), np.random.default_rng(3)
    for user in range(50):
        rows = rng.integers(0, 1_000_000, 20_000)
        seen.add(seen.of(user), np.arange(1, 20_001), rows, np.full(20_000, 100.0))
    assert seen.nbytes <= 50 * PER_USER


def test_a_million_seen_pairs_of_many_users_stay_within_the_bound_of_all():
    seen = SeenFilter(max_users=500)
    rows, at, places = np.arange(100), np.full(100, 100.0), np.arange(1, 101)
    for user in range(10_000):
        seen.add(seen.of(user), places, rows, at)
    assert len(seen) == 500
    assert seen.nbytes <= 500 * 128 * 12
    assert MAX_USERS * PER_USER < 64e6


def test_events_count_once_however_often_they_are_read():
    seen = SeenFilter()
    for _ in range(3):
        seen.add(seen.of(1), np.array([4, 5]), np.array([7, -1]), np.array([1.0, 1.0]))
    assert seen.of(1).recent(0.0).tolist() == [7]
    assert seen.of(1).place == 5


def test_a_reader_learns_of_a_new_impression_and_of_the_end_of_the_window(tmp_path):
    snapshot = LiveSnapshot(make_snapshot())

    def impression(number, at):
        return JournalEvent(f"i{number}", "impression", 9, at, at, post_id=2 * number + 1, surface="explore")

    with Journal(tmp_path / "journal.db") as journal:
        controls = JournalControls(snapshot, journal, seen_days=1.0)
        journal.append([impression(300, AS_OF - timedelta(hours=30)), impression(301, AS_OF - timedelta(hours=2))])
        assert set(controls.read(9, 9, AS_OF).seen_rows.tolist()) - set(range(180, 190)) == {301}
        journal.append([impression(302, AS_OF)])
        assert {301, 302} <= set(controls.read(9, 9, AS_OF).seen_rows.tolist())
        assert 301 not in controls.read(9, 9, AS_OF + timedelta(hours=23)).seen_rows
        # a wider window of another reader of the same snapshot still finds the oldest
        assert 300 in JournalControls(snapshot, journal, seen_days=7.0).read(9, 9, AS_OF).seen_rows
