"""Users, creators, posts and wishes over real HTTP: what is written is read back, served, exported and rebuilt."""

import json
import re
from dataclasses import replace
from datetime import timedelta

import httpx
import numpy as np
import pytest

from core.clock import FrozenClock
from core.errors import InputError
from core.schema import CONTENT_DIM
from events.compact import compact
from events.journal import Journal
from serving.app import create_app
from serving.bulk import export_lines
from serving.client import VitrineClient
from serving.entity_schemas import CreatorIn, PostIn, UserIn
from serving.entity_store import EntityStore
from serving.live.assembly import go_live, live_parts
from serving.live.view import LiveSnapshot, LiveView
from serving.snapshot_build.build import build_snapshot
from tests.serving_fakes import AS_OF, FakeTower, make_parts, make_runtime, make_settings, make_snapshot, make_spec
from tests.serving_server import running

SPEC = make_spec(eligibility={"min_pool": 5})
TOWARDS_EVERYONE = FakeTower().vector.tolist()
"""Content that the fake tower of users likes best."""


@pytest.fixture
def runtime(tmp_path):
    return make_runtime(tmp_path, SPEC)


@pytest.fixture
def vitrine(runtime):
    with running(runtime) as url, VitrineClient(url, timeout_seconds=30) as client:
        yield client


def post(**fields):
    given = {"creator_id": "c-new", "media_type": "video", "language": "en", "content_embedding": TOWARDS_EVERYONE}
    return PostIn(**given | fields)


def shown(client, user="1", limit=100):
    return [p.post_id for p in client.feed(user, limit=limit).posts]


def test_entities_are_read_back_as_written_and_gone_once_deleted(vitrine):
    user = vitrine.put_user("ann", UserIn(language="fr", country="CA", profile_codes=[3, -1]))
    assert vitrine.read_user("ann") == user
    assert (user.user_id, user.language, user.profile_codes) == ("ann", "fr", [3, -1])
    creator = vitrine.put_creator("c-new", CreatorIn(language="fr"))
    assert vitrine.read_creator("c-new") == creator
    odd = "p 1?#%ü"
    assert vitrine.put_post(odd, post()) == vitrine.read_post(odd)
    plain = vitrine.put_post("p-1", post(content_codes=[7], duration_seconds=9.1))
    assert vitrine.read_post("p-1") == plain
    assert plain.created_at == AS_OF
    assert plain.creator_id == "c-new"
    vitrine.delete_post("p-1")
    vitrine.delete_user("ann")
    vitrine.delete_creator("c-new")
    for read, name in ((vitrine.read_post, "p-1"), (vitrine.read_user, "ann"), (vitrine.read_creator, "c-new")):
        with pytest.raises(InputError, match="404"):
            read(name)
    vitrine.delete_post("p-1")
    with pytest.raises(InputError, match="404"):
        vitrine.delete_post("never-there")
    vitrine.delete_user("never-there")  # they may be known by events alone


def test_what_was_imported_is_the_base(vitrine, runtime):
    posts = runtime.snapshot.base.catalogue
    found = vitrine.read_post("21")
    assert found.creator_id == str(posts.creator_ids[10])
    assert found.created_at.timestamp() == pytest.approx(posts.created_at[10], abs=1e-5)
    assert found.content_embedding == posts.content[10].tolist()
    assert vitrine.read_user("4").country == "US"
    assert vitrine.read_creator("7").creator_id == "7"


def test_a_write_counts_once_and_a_repeated_one_writes_nothing(vitrine, runtime):
    vitrine.put_user("ann", UserIn(language="en"))
    place = runtime.journal.last_place()
    vitrine.put_user("ann", UserIn(language="en"))
    assert runtime.journal.last_place() == place
    vitrine.put_user("ann", UserIn(language="es"), key="k1")
    vitrine.put_user("ann", UserIn(language="de"))
    vitrine.put_user("ann", UserIn(language="es"), key="k1")  # the first one again, late
    assert vitrine.read_user("ann").language == "de"


def test_a_new_post_is_ranked_by_its_content_without_a_rebuild(vitrine):
    assert "p-1" not in shown(vitrine)
    vitrine.put_post("p-1", post())
    page = vitrine.feed("1", limit=100)
    entry = next(p for p in page.posts if p.post_id == "p-1")
    assert {"two_tower", "fresh"} <= set(entry.sources)
    assert entry.creator_id == "c-new"
    assert page.degraded == []


def test_a_new_post_of_a_followed_creator_comes_from_there(vitrine):
    vitrine.put_post("p-1", post())
    vitrine.put_follow("1", "c-new")
    entry = next(p for p in vitrine.feed("1", limit=100).posts if p.post_id == "p-1")
    assert "followed" in entry.sources


def test_a_deleted_post_leaves_feeds_lists_and_pages_ranked_before(vitrine):
    first = vitrine.feed("1", limit=10)
    planned = vitrine.feed("1", limit=10, cursor=first.next_cursor).posts
    trending = vitrine.trending(limit=5).posts[0].post_id
    for name in {planned[0].post_id, planned[3].post_id, trending}:
        vitrine.delete_post(name)
    again = [p.post_id for p in vitrine.feed("1", limit=10, cursor=first.next_cursor).posts]
    assert len(again) == 10
    assert not {planned[0].post_id, planned[3].post_id} & set(again)
    assert planned[0].post_id not in shown(vitrine, "2")
    assert trending not in [p.post_id for p in vitrine.trending(limit=100).posts]


def test_a_changed_post_is_served_as_it_is_now(vitrine, runtime):
    name = vitrine.feed("1", limit=1).posts[0].post_id
    before = vitrine.read_post(name)
    changed = before.model_dump(mode="json") | {"creator_id": "c-new", "language": "es"}
    del changed["post_id"]
    vitrine.put_post(name, PostIn(**changed))
    assert name not in shown(vitrine, "1")  # user 1 reads English
    assert vitrine.feed("2", limit=1).posts[0].language == "es"
    row = runtime.snapshot.catalogue.rows_of(np.array([int(name)]))
    assert runtime.snapshot.catalogue.creator_rows(int(before.creator_id)).tolist().count(int(row[0])) == 0


def test_a_deleted_creator_takes_their_posts_along(vitrine, runtime):
    vitrine.put_post("p-1", post(creator_id="7"))
    rows = runtime.snapshot.catalogue.creator_rows(7)
    assert len(rows) > 5
    vitrine.delete_creator("7")
    gone = {runtime.snapshot.external_post_id(row) for row in rows.tolist()}
    assert not gone & set(shown(vitrine))
    with pytest.raises(InputError, match="404"):
        vitrine.read_post("p-1")
    with pytest.raises(InputError, match=r"422.*creator"):
        vitrine.put_post("p-2", post(creator_id="7"))


def test_a_deleted_user_is_a_stranger_again(vitrine):
    vitrine.put_hide("3", "401")
    first = vitrine.feed("3", limit=10)
    vitrine.delete_user("3")
    assert vitrine.hides("3") == vitrine.follows("3") == vitrine.blocks("3") == []
    stranger, again = vitrine.feed("nobody-yet", limit=30), vitrine.feed("3", limit=30)
    assert {s for p in again.posts for s in p.sources} == {s for p in stranger.posts for s in p.sources}
    assert "followed" not in {s for p in again.posts for s in p.sources}
    ids = [p.post_id for p in vitrine.feed("3", limit=10, cursor=first.next_cursor).posts]
    assert not set(ids) & {p.post_id for p in first.posts}
    vitrine.put_user("3", UserIn(language="es"))
    assert {p.language for p in vitrine.feed("3").posts} == {"es"}


@pytest.mark.parametrize(("kind", "target"), [("follow", "12"), ("hide", "401"), ("block", "12")])
def test_wishes_hold_from_the_next_feed_on_until_they_are_lifted(vitrine, kind, target):
    call = lambda verb: getattr(vitrine, f"{verb}_{kind}")("1", target)  # noqa: E731
    names = lambda: [next(reversed(w.model_dump().values())) for w in getattr(vitrine, f"{kind}s")("1")]  # noqa: E731
    before = names()
    assert target not in before
    call("put")
    assert set(names()) == {*before, target}
    assert call("read").model_dump()["user_id"] == "1"
    if kind == "block":
        assert target not in {p.creator_id for p in vitrine.feed("1", limit=100).posts}
    call("delete")
    assert names() == before
    with pytest.raises(InputError, match="404"):
        call("read")
    call("put")
    assert target in names()


def test_wishes_of_the_log_can_be_lifted_too(vitrine):
    assert [b.creator_id for b in vitrine.blocks("2")] == ["3"]
    vitrine.delete_block("2", "3")
    vitrine.delete_hide("2", "201")
    vitrine.delete_follow("2", "7")
    assert (vitrine.blocks("2"), vitrine.hides("2")) == ([], [])
    assert [f.creator_id for f in vitrine.follows("2")] == ["8"]


def test_lists_name_their_reasons_and_keep_to_what_may_be_shown(vitrine, runtime):
    catalogue = runtime.snapshot.catalogue
    for found, source in ((vitrine.trending(explain=True, language="es"), "trending"), (vitrine.popular(), "popular")):
        assert len(found.posts) == 20
        assert all(p.sources == [source] for p in found.posts)
    assert {p.language for p in vitrine.trending(language="es").posts} == {"es"}
    assert {p.country for p in vitrine.popular(country="ES", limit=50).posts} == {"ES"}
    assert vitrine.popular(language="xx").posts == []
    assert "1" not in [p.post_id for p in vitrine.popular(limit=100).posts]  # not recommendable
    like = vitrine.similar("401", limit=30, explain=True)
    assert [p.sources for p in like.posts] == sorted([p.sources for p in like.posts], reverse=True)
    assert {"item_to_item", "content"} == {s for p in like.posts for s in p.sources}
    assert "401" not in [p.post_id for p in like.posts]
    by_content = [p for p in like.posts if p.sources == ["content"]]
    row = int(catalogue.rows_of(np.array([401]))[0])
    best = catalogue.content[catalogue.rows_of(np.array([int(by_content[0].post_id)]))[0]] @ catalogue.content[row]
    assert by_content[0].stage_scores == pytest.approx({"content": best})
    with pytest.raises(InputError, match="404"):
        vitrine.similar("never-there")


def test_a_new_post_has_similar_ones_and_can_be_one(vitrine):
    vitrine.put_post("a", post())
    vitrine.put_post("b", post(creator_id="c-2"))
    assert vitrine.similar("a", limit=1).posts[0].post_id == "b"


def test_engagements_move_trending_within_the_same_second(vitrine):
    vitrine.put_post("p-1", post())
    page = vitrine.feed("1", limit=100)
    entry = next(p for p in page.posts if p.post_id == "p-1")
    vitrine.send([vitrine.engagement(page, entry, "share") for _ in range(5)])
    vitrine.similar("p-1")  # takes in what was acknowledged; the tail does it by itself a moment later
    first = vitrine.trending(limit=1, explain=True).posts[0]
    assert (first.post_id, first.stage_scores) == ("p-1", {"trending": 1.0})


def test_events_may_be_about_a_post_that_was_just_written(vitrine):
    vitrine.put_post("p-1", post())
    page = vitrine.feed("1", limit=100)
    entry = next(p for p in page.posts if p.post_id == "p-1")
    assert vitrine.send([vitrine.impression(page, entry)]).accepted == 1


def test_import_takes_good_lines_refuses_bad_ones_and_export_gives_them_back(vitrine):
    lines = [
        {"kind": "creator", "creator_id": "c-new", "language": "en"},
        {"kind": "post", "post_id": "p-1", "creator_id": "c-new", "media_type": "text", "event_id": "once"},
        {"kind": "follow", "user_id": "ann", "creator_id": "c-new"},
        {"kind": "hide", "user_id": "ann", "post_id": "p-1"},
        {"kind": "user", "user_id": "4", "is_deleted": True},
        {"kind": "post", "post_id": "p-2", "creator_id": "c-new", "media_type": "radio"},
        {"kind": "post", "creator_id": "c-new", "media_type": "text"},
        {"kind": "podcast"},
        {"kind": "block", "user_id": "ann", "creator_id": "nobody"},
        {"kind": "creator", "creator_id": "bob", "is_deleted": True},
    ]
    reply = vitrine.import_lines(lines)
    assert (reply.accepted, reply.unchanged) == (5, 0)
    assert [(r.line, r.field) for r in reply.refused] == [
        (6, "media_type"), (7, "post_id"), (8, "kind"), (9, "creator_id"), (10, "creator_id"),
    ]  # fmt: skip
    again = vitrine.import_lines(lines[:4])
    assert (again.accepted, again.unchanged) == (0, 4)
    users = {line["user_id"] for line in vitrine.export("user")}
    assert users == {str(i) for i in range(30)} - {"4"} | {"ann"}  # known by name from their first wish on
    posts = {line["post_id"]: line for line in vitrine.export("post")}
    assert len(posts) == 601
    assert vitrine.import_lines(list(posts.values())[:50]).unchanged == 50
    follows = list(vitrine.export("follow"))
    assert {"kind": "follow", "user_id": "1", "creator_id": "7"} in follows
    assert {"kind": "follow", "user_id": "ann", "creator_id": "c-new"} in follows
    assert vitrine.import_lines(follows).unchanged == len(follows)


def test_an_import_within_one_batch_goes_line_by_line(vitrine):
    one = {"kind": "post", "post_id": "p-1", "creator_id": "c", "media_type": "text", "language": "en"}
    reply = vitrine.import_lines([one, one | {"is_deleted": True} | {}, one | {"language": "es"}, one])
    assert [r.field for r in reply.refused] == ["creator_id"]  # a deletion carries nothing else
    assert reply.accepted == 3
    assert vitrine.read_post("p-1").language == "en"
    end = {"kind": "creator", "creator_id": "c", "is_deleted": True}
    anew = {"kind": "creator", "creator_id": "c"}
    assert vitrine.import_lines([end, anew, one]).accepted == 3  # what comes after a deletion outlives it
    assert vitrine.read_post("p-1").language == "en"
    gone = {"kind": "post", "post_id": "p-1", "is_deleted": True}
    assert vitrine.import_lines([gone, one, gone]).accepted == 3
    with pytest.raises(InputError, match="404"):
        vitrine.read_post("p-1")


@pytest.mark.parametrize("body", [b"\xff\xfe\n[]\n{}\nnull", b"[" * 50_000, b'{"kind": ["post"]}'])
def test_garbage_lines_are_refused_and_nothing_breaks(vitrine, body):
    reply = httpx.post(f"{vitrine._http.base_url}/import", content=body)
    assert reply.status_code == 200
    assert reply.json()["accepted"] == 0
    assert all(r["reason"] for r in reply.json()["refused"])


def test_an_import_beyond_the_limits_is_refused_as_a_whole(vitrine):
    url = f"{vitrine._http.base_url}/import"
    assert httpx.post(url, content=b"{}\n" * 5_001).status_code == 422
    assert httpx.post(url, content=b"x" * 2_000_001).status_code == 413


@pytest.mark.parametrize(
    ("fields", "loc"),
    [
        ({"media_type": "radio"}, "media_type"),
        ({"content_embedding": [0.5]}, "content_embedding"),
        ({"integrity_score": 2}, "integrity_score"),
        ({"topic_id": -2}, "topic_id"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_malformed_post_is_a_422_that_names_the_field(vitrine, fields, loc):
    body = {"creator_id": "c", "media_type": "video"} | fields
    reply = httpx.put(f"{vitrine._http.base_url}/posts/x", json=body)
    assert reply.status_code == 422
    assert reply.json()["detail"][0]["loc"][:2] == ["body", loc]


def test_the_view_rebuilt_from_snapshot_and_journal_equals_the_live_one(vitrine, runtime):
    vitrine.put_post("p-1", post())
    vitrine.put_post("p-1", post(language="fr", content_codes=[4]))
    vitrine.put_post("p-2", post())
    vitrine.put_post("41", post(creator_id="9"))
    vitrine.delete_post("p-2")
    vitrine.delete_creator("7")
    vitrine.put_user("ann", UserIn(language="fr"))
    vitrine.delete_user("5")
    vitrine.put_user("5", UserIn(language="de"))
    page = vitrine.feed("1", limit=50)
    vitrine.send([vitrine.engagement(page, entry, "like") for entry in page.posts])
    live = runtime.live.view
    live.catch_up()
    snapshot = LiveSnapshot(make_snapshot())
    parts = live_parts(make_parts(snapshot), snapshot)
    funnels = replace(runtime.funnels.current, parts=parts)
    rebuilt = go_live(snapshot, runtime.journal, runtime.clock, funnels).view
    for name in ("creator_ids", "language_codes", "is_recommendable", "content", "num_impressions", "created_at"):
        found, expected = getattr(rebuilt.snapshot.catalogue, name), getattr(live.snapshot.catalogue, name)
        np.testing.assert_array_equal(found, expected, err_msg=name)
    assert rebuilt.snapshot.catalogue.languages == live.snapshot.catalogue.languages
    np.testing.assert_array_equal(rebuilt.snapshot.catalogue.newest_rows, live.snapshot.catalogue.newest_rows)
    np.testing.assert_array_equal(rebuilt.snapshot.lists.trending.values, live.snapshot.lists.trending.values)
    for entity in ("user", "creator", "post"):
        ids = live.written_ids(entity)
        assert rebuilt.written_ids(entity) == ids
        assert [rebuilt.written_at(entity, i) for i in ids] == [live.written_at(entity, i) for i in ids]


def test_entities_are_the_same_before_and_after_their_writes_move_into_the_log(tmp_path):
    """Live over an empty snapshot; rebuilt from log and journal; rebuilt again with further writes on top."""
    settings = make_settings(tmp_path)
    workspace = settings.workspace
    workspace.write_manifest(replace(workspace.manifest(), kind="own", anchor_at=None))
    clock, written = FrozenClock(AS_OF), {}
    with Journal(workspace.journal) as journal:
        for turn in range(3):
            store = rebuilt(settings, journal, clock)
            assert exported(store) == written
            for step in range(4):
                clock.at += timedelta(seconds=1)
                store.put("creator", f"c{step}", CreatorIn(country="FR"))
                store.put("post", f"p{turn}{step}", post(creator_id=f"c{step}", content_codes=[turn], topic_id=step))
                store.put("user", f"u{turn}{step}", UserIn(language="en", profile_codes=[step, -1]))
            store.wish("follow", f"u{turn}0", "c3")
            store.wish("hide", f"u{turn}0", f"p{turn}3")
            store.wish("block", f"u{turn}1", "c2")
            store.wish("block", f"u{turn}1", "c2", is_wanted=False)
            store.put("post", "p00", post(creator_id="c1", duration_seconds=0.1 * turn, language="fr"))
            store.delete("post", f"p{turn}1")
            store.delete("user", f"u{turn}2")
            if turn == 1:
                store.delete("creator", "c0")
            if turn == 2:
                store.put("user", "u02", UserIn(language="de"))
            written = exported(store)
            clock.at += timedelta(seconds=1)
            compact(workspace)
        assert exported(rebuilt(settings, journal, clock)) == written
    assert len(written["post"]) > 5
    names = [json.loads(line)["post_id"] for line in written["post"]]
    assert "p10" not in names  # it went with its creator, who came back without it
    assert set(written) == {"user", "creator", "post", "follow", "hide"}


def rebuilt(settings, journal, clock):
    snapshot = LiveSnapshot(build_snapshot(settings, {"like": 1.0}))
    return EntityStore(LiveView(snapshot, journal, clock, {}), journal, clock)


def exported(store):
    """Everything as /export gives it."""
    kinds = ("user", "creator", "post", "follow", "hide", "block")
    lines = {kind: sorted(b"".join(export_lines(store, kind)).splitlines()) for kind in kinds}
    return {kind: found for kind, found in lines.items() if found}


def test_the_client_has_a_method_for_every_path_and_its_models_are_the_documents(runtime):
    """Every operation is called once by a client that records; names of models come from the document."""
    document = create_app(runtime).openapi()
    operations = {(m.upper(), p) for p, methods in document["paths"].items() for m in methods}
    calls = set()

    class Recorder(VitrineClient):
        def _send(self, method, path, **given):
            calls.add((method, path))
            raise InputError("recorded")

        def _lines(self, path, query):
            calls.add(("GET", path))
            return iter(())

    client = Recorder("http://127.0.0.1:9")
    given = {"user": UserIn(), "creator": CreatorIn(), "post": post(), "events": [], "lines": [], "kind": "post"}
    names = {n for n in dir(VitrineClient) if not n.startswith("_")} - {"impression", "engagement", "close", "scroll"}
    for name in names:
        method = getattr(client, name)
        words = [
            w for w in method.__annotations__ if w not in ("return", "limit", "explain", "language", "country", "key")
        ]
        words = [w for w in words if w not in ("cursor", "surface", "context")]
        try:
            for _ in method(*(given.get(w, f"<{w}>") for w in words)):
                pass
        except InputError:
            pass
    templates = {(m, re.sub(r"%3C(\w+)%3E|<(\w+)>", lambda f: "{" + (f[1] or f[2]) + "}", p)) for m, p in calls}
    assert templates | {("GET", "/feed")} == operations  # the client asks for feeds by POST, which says more
    schemas = document["components"]["schemas"]
    for _, path in operations:
        for operation in document["paths"][path].values():
            for reply in operation["responses"].values():
                for content in reply.get("content", {}).values():
                    found = re.findall(r"#/components/schemas/(\w+)", json.dumps(content))
                    assert all(name in schemas for name in found)
    import serving.entity_schemas as entity_schemas
    import serving.schemas as plain_schemas

    for name, schema in schemas.items():
        model = getattr(entity_schemas, name, None) or getattr(plain_schemas, name, None)
        if model is not None:
            assert set(schema.get("properties", {})) == set(model.model_fields), name
    runtime.close()


def test_a_view_without_room_says_so_and_keeps_the_write(tmp_path):
    runtime = make_runtime(tmp_path, SPEC)
    snapshot = LiveSnapshot(make_snapshot(), room=1)
    parts = live_parts(make_parts(snapshot), snapshot)
    runtime.funnels.exchange(runtime.renewed(runtime.funnels.current.specs, parts, snapshot))
    with running(runtime) as url, VitrineClient(url) as vitrine:
        vitrine.put_post("p-1", post(content_embedding=[1.0] * CONTENT_DIM))
        assert vitrine.readiness().degraded == []
        vitrine.put_post("p-2", post(content_embedding=[1.0] * CONTENT_DIM))
        assert vitrine.readiness().degraded == ["live_catalogue"]
        assert vitrine.read_post("p-2").creator_id == "c-new"
