"""Writes of the catalogue in the journal, and as rows of the log."""

import json
import sqlite3
from datetime import UTC, datetime, timedelta

import pytest

from core.settings import Settings
from core.workspace import DatasetManifest
from events.compact import compact
from events.journal import Journal, JournalEvent
from events.read import connect, latest, register_log
from serving.snapshot_build.build import build_snapshot

AT = datetime(2024, 3, 1, 12, tzinfo=UTC)
POST = {
    "external_id": "p", "creator_id": 6, "creator_external_id": "c", "created_at": AT.isoformat(),
    "media_type": "video", "language": "en", "country": None, "topic_id": 3, "duration_seconds": 9.5,
    "integrity_score": 1.0, "is_recommendable": True, "content_codes": [1, -1], "content_embedding": None,
}  # fmt: skip
USER = {"external_id": "u", "language": "de", "country": "DE", "profile_codes": [2]}
CREATOR = {"external_id": "c", "language": "de", "country": None}


@pytest.fixture
def settings(tmp_path):
    return Settings(var_dir=tmp_path, dataset="shop", num_threads=1)


def write(number, kind, payload=None, user_id=-1, **ids):
    at = AT + timedelta(seconds=number)
    text = json.dumps(payload) if payload else None
    return JournalEvent(f"w{number}", kind, user_id, at, at, payload=text, **ids)


def put_post(number, **fields):
    return write(number, "put_post", POST | fields, post_id=5, creator_id=fields.get("creator_id", 6))


def compacted(settings, *events):
    with Journal(settings.workspace.journal) as journal:
        journal.append(events)
    return compact(settings.workspace)


def query(settings, sql):
    with connect(settings) as connection:
        register_log(connection, settings.workspace.log)
        for table in ("users", "creators", "posts"):
            latest(connection, table)
        return connection.sql(sql).fetchall()


def test_puts_become_rows_and_the_latest_holds(settings):
    compacted(
        settings,
        put_post(1),
        write(2, "put_user", USER, user_id=1),
        write(3, "put_creator", CREATOR, creator_id=6),
        put_post(4, language="es"),
    )
    assert query(settings, "SELECT external_id, language, content_codes, known_at FROM posts_latest") == [
        ("p", "es", [1, -1], AT + timedelta(seconds=4))
    ]
    assert query(settings, "SELECT count(*) FROM posts") == [(2,)]
    assert query(settings, "SELECT user_id, external_id, country, profile_codes FROM users_latest") == [
        (1, "u", "DE", [2])
    ]
    assert query(settings, "SELECT creator_id, external_id, language FROM creators_latest") == [(6, "c", "de")]
    assert compact(settings.workspace).num_events == 0


@pytest.mark.parametrize("is_one_batch", [True, False])
@pytest.mark.parametrize("deletion", [write(9, "delete_post", post_id=5), write(9, "delete_creator", creator_id=6)])
def test_a_deleted_post_or_creator_takes_the_post_out_of_every_feed(settings, is_one_batch, deletion):
    batches = [[put_post(1), deletion]] if is_one_batch else [[put_post(1)], [deletion]]
    for batch in batches:
        compacted(settings, *batch)
    assert query(settings, "SELECT is_recommendable, language, topic_id FROM posts_latest") == [(False, "en", 3)]


def test_a_deleted_user_keeps_no_profile(settings):
    seen = JournalEvent("i", "impression", 1, AT, AT, post_id=5, creator_id=6, surface="explore")
    compacted(settings, put_post(0), write(1, "put_user", USER, user_id=1), seen)
    assert query(settings, "SELECT external_id FROM users_latest") == [("u",)]  # the impression adds no empty row
    compacted(settings, write(2, "delete_user", user_id=1))
    assert query(settings, "SELECT external_id, country, language, profile_codes FROM users_latest") == [
        ("1", None, None, [])
    ]


def test_a_hide_of_a_post_written_in_the_same_batch_enters_the_log(settings):
    hide = JournalEvent("h", "hide", 1, AT + timedelta(seconds=2), AT + timedelta(seconds=2), post_id=5)
    report = compacted(settings, put_post(1), hide)
    assert report.num_refused == 0
    assert query(settings, "SELECT kind, creator_id FROM engagements") == [("hide", 6)]


def test_the_next_snapshot_holds_what_was_written_and_knows_up_to_where(settings):
    settings.workspace.root.mkdir(parents=True, exist_ok=True)
    settings.workspace.write_manifest(DatasetManifest("shop", "own", "d", None, AT, AT, {}, {}))
    compacted(
        settings,
        put_post(1),
        write(2, "put_user", USER, user_id=1),
        write(3, "put_creator", CREATOR, creator_id=6),
    )
    snapshot = build_snapshot(settings, {"like": 1.0})
    assert snapshot.journal_place == 3
    assert snapshot.catalogue.post_ids.tolist() == [5]
    assert snapshot.entities.post_content_codes.list_of(0).tolist() == [1, -1]
    assert snapshot.entities.user_profile_codes.list_of(0).tolist() == [2]
    assert snapshot.entities.external_user_ids.text(0) == "u"
    assert snapshot.entities.creator_ids.tolist() == [6]


def test_pruning_keeps_writes(settings):
    late = AT + timedelta(days=100)
    with Journal(settings.workspace.journal) as journal:
        journal.append([put_post(1), JournalEvent("c", "click", 1, AT, AT, post_id=5)])
        journal.append([JournalEvent("d", "click", 1, late, late, post_id=5)])
        assert journal.prune(2, timedelta(days=90)) == 1
        assert [e.event_id for _, e in journal.since(0)] == ["w1", "d"]


def test_deletions_tell_what_came_back(settings):
    with Journal(settings.workspace.journal) as journal:
        journal.append([put_post(1), write(2, "delete_post", post_id=5), write(3, "delete_user", user_id=1)])
        assert sorted(journal.deletions(3)) == [("post", 5, False), ("user", 1, False)]
        journal.append([put_post(4, creator_id=8)])
        assert sorted(journal.deletions(4)) == [("post", 5, True), ("user", 1, False)]
        assert journal.deletions(1) == []


def test_wishes_taken_back_and_users_deleted_leave_no_wish(settings):
    def did(number, kind, **ids):
        return JournalEvent(f"d{number}", kind, 1, AT, AT, **ids)

    with Journal(settings.workspace.journal) as journal:
        journal.append([did(1, "hide", post_id=5), did(2, "block", creator_id=6), did(3, "follow", creator_id=7)])
        journal.append([did(4, "unhide", post_id=5), did(5, "unblock", creator_id=6)])
        wishes = journal.user_controls(1)
        assert (wishes.hidden_post_ids, wishes.blocked_creator_ids) == (frozenset(), frozenset())
        assert wishes.followed_creator_ids == {7}
        journal.append([did(6, "hide", post_id=5)])
        assert journal.user_controls(1).hidden_post_ids == {5}
        journal.append([write(7, "delete_user", user_id=1)])
        assert journal.user_controls(1) == type(wishes)()
        journal.append([did(8, "block", creator_id=9)])
        assert journal.user_controls(1).blocked_creator_ids == {9}


def test_a_journal_of_before_there_were_writes_is_brought_up(tmp_path):
    path = tmp_path / "journal.db"
    with Journal(path) as journal:
        journal.append([JournalEvent("c", "click", 1, AT, AT, post_id=5)])
    old = sqlite3.connect(path)
    old.executescript("DROP INDEX writes; DROP INDEX seen_by_place; ALTER TABLE events DROP COLUMN payload;")
    old.close()
    with Journal(path) as journal:
        journal.append([put_post(1)])
        assert [e.event_id for _, e in journal.since(0)] == ["c", "w1"]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [("put_post", {"post_id": 5}), ("delete_post", {}), ("delete_post", {"post_id": 5, "payload": {"a": 1}})],
)
def test_a_write_without_its_id_or_with_the_wrong_payload_is_refused(kind, fields):
    with pytest.raises(ValueError, match=kind):
        write(1, kind, **fields)
