from contextlib import closing
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.schema import TABLES
from core.settings import Settings
from core.workspace import DatasetManifest
from events import compact as compact_module
from events.compact import compact
from events.journal import Journal, JournalEvent
from events.log import append, replace_all
from events.read import connect, register_log
from events.served import ServedLog, ServedPage

AT = datetime(2024, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path):
    return Settings(var_dir=tmp_path, dataset="shop", num_threads=1)


def event(event_id, kind, at=AT, **fields):
    given = {"user_id": 1, "post_id": 5, "creator_id": 6, "received_at": at + timedelta(seconds=2)} | fields
    if kind == "impression":
        given.setdefault("surface", "explore")
    return JournalEvent(event_id, kind, event_at=at, **given)


def journaled(settings, *events):
    with Journal(settings.workspace.journal) as journal:
        journal.append(list(events))


def query(settings, sql):
    with connect(settings) as connection:
        register_log(connection, settings.workspace.log)
        return connection.sql(sql).fetchall()


def post(post_id, creator_id):
    schema = TABLES["posts"].arrow
    values = {
        "post_id": post_id,
        "external_id": str(post_id),
        "creator_id": creator_id,
        "created_at": AT,
        "media_type": "image",
        "topic_id": 1,
        "is_recommendable": True,
        "content_codes": [],
        "event_at": AT,
        "known_at": AT,
    }
    return pa.table({f.name: pa.array([values.get(f.name)], f.type) for f in schema}, schema=schema)


def test_each_kind_of_event_lands_in_its_table(settings):
    journaled(
        settings,
        event("i", "impression", position=2, sources=("fresh",), request_id=7),
        event("l", "like", impression_id="i"),
        event("f", "follow", at=AT + timedelta(seconds=1)),
        event("u", "unfollow", at=AT + timedelta(seconds=2), post_id=None),
        event("b", "block", post_id=None),
    )
    report = compact(settings.workspace)
    assert (report.num_events, report.num_refused) == (5, 0)
    assert query(settings, "SELECT event_id, request_id, position, sources FROM impressions") == [
        ("i", 7, 2, ["fresh"])
    ]
    assert query(settings, "SELECT event_id, kind, impression_id FROM engagements ORDER BY 1") == [
        ("f", "follow", None),
        ("l", "like", "i"),
    ]
    assert query(settings, "SELECT event_id, is_active FROM follows ORDER BY 1") == [("f", True), ("u", False)]


def page(request_id, at=AT):
    return ServedPage(
        request_id, 70, 1, "explore", "FR", "fr", "web", at, "spec1", "{}", (), (0,), (5,), (1.0,), (at,), (("fresh",),)
    )


def test_served_pages_become_requests_once(settings):
    with closing(ServedLog(settings.workspace.served)) as served:
        served.append(page(2))
        served.append(page(9, AT + timedelta(hours=1)))
        assert compact(settings.workspace, batch=1).num_written == {"requests": 2}
        served.append(page(4, AT + timedelta(hours=1) - timedelta(seconds=3)))  # a slower server's
        assert compact(settings.workspace).num_written == {"requests": 1}
        assert compact(settings.workspace).num_written == {}
    columns = "request_id, user_id, session_id, surface, country, language, device, spec_version, event_at, known_at"
    assert query(settings, f"SELECT {columns} FROM requests ORDER BY 1")[0] == (
        2, 1, 70, "explore", "FR", "fr", "web", "spec1", AT, AT,
    )  # fmt: skip


def test_the_journal_keeps_wishes_for_good_and_the_rest_until_the_log_has_it(settings):
    old = AT - timedelta(days=100)
    journaled(settings, event("i", "impression", at=old), event("h", "hide", at=old), event("n", "like"))
    with Journal(settings.workspace.journal) as journal:
        assert journal.prune(0, timedelta(days=1)) == 0  # nothing is in the log yet
    compact(settings.workspace)
    with Journal(settings.workspace.journal) as journal:
        assert [e.event_id for _, e in journal.since(0)] == ["h", "n"]
        assert journal.user_controls(1).hidden_post_ids == {5}
    assert query(settings, "SELECT event_id FROM impressions") == [("i",)]


def test_an_event_is_known_when_it_arrived(settings):
    journaled(settings, event("l", "like"))
    compact(settings.workspace)
    assert query(settings, "SELECT event_at, known_at FROM engagements") == [(AT, AT + timedelta(seconds=2))]


def test_compacting_again_adds_nothing_and_later_only_what_is_new(settings):
    journaled(settings, event("a", "like"))
    compact(settings.workspace)
    assert compact(settings.workspace).num_events == 0
    journaled(settings, event("b", "like"))
    report = compact(settings.workspace)
    assert (report.num_events, report.num_written) == (1, {"engagements": 1})
    assert query(settings, "SELECT count(*), count(DISTINCT event_id) FROM engagements") == [(2, 2)]


def test_a_compaction_that_died_before_noting_its_place_is_made_good_by_the_next(settings, monkeypatch):
    journaled(settings, *(event(str(i), "like") for i in range(5)))

    def die(*_):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(compact_module, "write_atomically", die)
        with pytest.raises(RuntimeError):
            compact(settings.workspace, batch=2)
    compact(settings.workspace, batch=2)
    assert query(settings, "SELECT count(*), count(DISTINCT event_id) FROM engagements") == [(5, 5)]


def test_a_rewritten_log_takes_the_journal_anew(settings):
    journaled(settings, event("a", "like"))
    compact(settings.workspace)
    replace_all(settings.workspace.log, "engagements", TABLES["engagements"].arrow.empty_table())
    assert query(settings, "SELECT count(*) FROM engagements") == [(0,)]
    compact(settings.workspace)
    assert query(settings, "SELECT event_id FROM engagements") == [("a",)]


def test_the_creator_is_found_by_the_post_and_an_unknown_post_is_quarantined(settings):
    append(settings.workspace.log, "posts", post(5, 66), source="test")
    journaled(settings, event("a", "like", creator_id=None), event("b", "like", creator_id=None, post_id=404))
    assert compact(settings.workspace).num_refused == 1
    assert query(settings, "SELECT event_id, creator_id FROM engagements") == [("a", 66)]
    (file,) = (settings.workspace.quarantine / "journal").glob("*.parquet")
    (row,) = pq.ParquetFile(file).read().to_pylist()
    assert (row["event_id"], row["reason"]) == ("b", "post_id: not in posts, so the creator is unknown")


def test_an_engagement_before_its_impression_and_a_future_event_are_quarantined(settings):
    journaled(
        settings,
        event("i", "impression"),
        event("early", "like", at=AT - timedelta(seconds=1), impression_id="i"),
        event("ahead", "like", at=AT + timedelta(hours=1), received_at=AT),
    )
    assert compact(settings.workspace).num_refused == 2
    (file,) = (settings.workspace.quarantine / "journal").glob("*.parquet")
    reasons = {row["event_id"]: row["reason"] for row in pq.ParquetFile(file).read().to_pylist()}
    assert reasons == {
        "early": "event_at: engagement before its impression",
        "ahead": "event_at: in the future of its arrival",
    }


def test_a_user_the_log_has_not_met_gets_one_row_without_profile(settings):
    journaled(settings, event("a", "like", user_id=77), event("b", "like", user_id=77))
    compact(settings.workspace)
    journaled(settings, event("c", "like", user_id=77, at=AT + timedelta(days=2)))
    compact(settings.workspace)
    assert query(settings, "SELECT user_id, country, profile_codes FROM users") == [(77, None, [])]


def test_the_manifest_follows_and_an_anchored_clock_moves_on(settings):
    before = DatasetManifest("shop", "own", "abc", AT, AT, AT, {"engagements": 0}, {})
    settings.workspace.write_manifest(before)
    later = AT + timedelta(hours=3)
    journaled(settings, event("a", "like", at=later))
    compact(settings.workspace)
    after = settings.workspace.manifest()
    assert (after.anchor_at, after.last_event_at, after.rows["engagements"]) == (later, later, 1)
    assert after.data_version.startswith("abc+")


def test_a_workspace_without_journal_has_nothing_to_compact(settings):
    assert compact(settings.workspace).num_events == 0
    assert not settings.workspace.journal.exists()
