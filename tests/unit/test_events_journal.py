import sqlite3
from datetime import UTC, datetime, timedelta

import pytest

from core.errors import StoreUnavailableError
from events.journal import Journal, JournalEvent

AT = datetime(2024, 3, 1, 12, tzinfo=UTC)


def event(event_id, kind, **fields):
    given = {"user_id": 1, "event_at": AT, "received_at": AT} | fields
    if kind == "impression":
        given.setdefault("surface", "explore")
    return JournalEvent(event_id, kind, **given)


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path / "journal.db") as opened:
        yield opened


def test_an_event_comes_back_as_it_was_given(journal):
    given = event(
        "a",
        "impression",
        post_id=5,
        creator_id=6,
        request_id=2**62,
        position=3,
        served_at=AT - timedelta(seconds=1, microseconds=7),
        sources=("two_tower", "fresh"),
        propensity=0.25,
        spec_version="v1",
        model_versions="retrieval=x",
    )
    journal.append([given])
    assert journal.since(0) == [(1, given)]


def test_an_event_id_counts_once_within_a_batch_and_between_batches(journal):
    first = journal.append([event("a", "like", post_id=5), event("a", "like", post_id=5)])
    second = journal.append([event("a", "like", post_id=9), event("b", "like", post_id=5)])
    assert (first.accepted, first.duplicates) == (1, 1)
    assert (second.accepted, second.duplicates) == (1, 1)
    assert [(e.event_id, e.post_id) for _, e in journal.since(0)] == [("a", 5), ("b", 5)]


def test_a_reopened_journal_holds_what_it_acknowledged_with_full_synchronisation(tmp_path):
    with Journal(tmp_path / "journal.db") as first:
        first.append([event("a", "like", post_id=5)])
        assert first._writer.execute("PRAGMA synchronous").fetchone() == (2,)
        assert first._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with Journal(tmp_path / "journal.db") as second:
        assert [e.event_id for _, e in second.since(0)] == ["a"]


def test_hides_blocks_and_negative_feedback_are_the_users_own(journal):
    journal.append(
        [
            event("a", "hide", post_id=5),
            event("b", "see_less", post_id=6),
            event("c", "report", post_id=7),
            event("d", "block", creator_id=8),
            event("e", "block", post_id=9, creator_id=10),
            event("f", "hide", post_id=11, user_id=2),
            event("g", "like", post_id=12),
        ]
    )
    controls = journal.user_controls(1)
    assert controls.hidden_post_ids == {5, 6, 7}
    assert controls.see_less_post_ids == {6}
    assert controls.blocked_creator_ids == {8, 10}
    assert controls.blocked_post_ids == {9}
    assert journal.user_controls(3).hidden_post_ids == frozenset()


def test_the_last_follow_or_unfollow_of_a_creator_holds(journal):
    journal.append([event("a", "follow", creator_id=5), event("b", "follow", creator_id=6)])
    journal.append([event("c", "unfollow", creator_id=5), event("d", "unfollow", creator_id=7)])
    journal.append([event("e", "follow", creator_id=7)])
    controls = journal.user_controls(1)
    assert controls.followed_creator_ids == {6, 7}
    assert controls.unfollowed_creator_ids == {5}


def test_seen_posts_are_those_since_the_given_instant(journal):
    journal.append(
        [
            event("a", "impression", post_id=5, event_at=AT - timedelta(hours=2)),
            event("b", "impression", post_id=6),
            event("c", "impression", post_id=7, user_id=2),
            event("d", "like", post_id=8),
        ]
    )
    assert [
        post_id for _, post_id, at in journal.seen_after(1, 0, 10) if at >= (AT - timedelta(hours=1)).timestamp()
    ] == [6]


def test_recent_engagements_come_newest_first_up_to_the_limit(journal):
    ats = [AT + timedelta(seconds=s) for s in (3, 1, 2)]
    journal.append([event(str(i), "like", post_id=i, event_at=at, received_at=at) for i, at in enumerate(ats)])
    journal.append([event("seen", "impression", post_id=9)])
    assert [e.post_id for e in journal.recent_engagements(1, AT, limit=2)] == [0, 2]


def test_reading_in_steps_gives_every_event_once(journal):
    journal.append([event(str(i), "like", post_id=i) for i in range(5)])
    first = journal.since(0, limit=3)
    rest = journal.since(first[-1][0], limit=3)
    assert [e.event_id for _, e in first + rest] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("wave", {"post_id": 1}, "kind 'wave' is none of"),
        ("like", {}, "like needs a post_id"),
        ("unfollow", {"post_id": 1}, "unfollow needs a creator_id"),
        ("follow", {}, "follow needs a creator_id or a post_id"),
        ("impression", {"post_id": 1, "surface": None}, "an impression needs its surface"),
        ("like", {"post_id": -1}, "post_id -1 is not within"),
        ("like", {"post_id": 1, "user_id": 2**63}, "user_id 9223372036854775808 is not within"),
    ],
)
def test_an_event_that_cannot_be_true_is_refused(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        event("a", kind, **fields)


def test_an_instant_without_zone_is_refused_and_nothing_of_the_batch_stays(journal):
    with pytest.raises(ValueError, match="no zone"):
        journal.append([event("a", "like", post_id=1), event("b", "like", post_id=1, event_at=datetime(2024, 3, 1))])
    assert journal.since(0) == []


def test_a_file_that_is_no_journal_is_a_store_error_not_a_foreign_one(tmp_path):
    path = tmp_path / "journal.db"
    path.write_bytes(b"not a database, not at all" * 100)
    with pytest.raises(StoreUnavailableError, match=r"journal\.db cannot be read or written"):
        Journal(path)


def test_a_lost_table_is_a_store_error_not_a_foreign_one(journal):
    with sqlite3.connect(journal.path) as other:
        other.execute("DROP TABLE events")
    other.close()
    with pytest.raises(StoreUnavailableError, match="no such table"):
        journal.append([event("a", "like", post_id=1)])


def test_controls_are_read_through_the_users_index(journal):
    plan = journal._reader.execute(
        "EXPLAIN QUERY PLAN SELECT kind FROM events WHERE user_id = 1 AND kind IN ('hide', 'block')"
    ).fetchall()
    assert "events_by_user" in str(plan)
