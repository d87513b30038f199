"""The service over real HTTP: what clients send and get."""

import threading
from datetime import timedelta
from uuid import uuid4

import httpx
import pytest

from core.errors import InputError, StoreUnavailableError
from events.journal import Journal
from serving.client import VitrineClient
from serving.schemas import FeedContext
from tests.serving_fakes import AS_OF, FakeReader, make_parts, make_runtime, make_snapshot, make_spec
from tests.serving_server import running

SPEC = make_spec(eligibility={"min_pool": 5})
KEY = "a-long-enough-key-of-ours"


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    return make_runtime(tmp_path_factory.mktemp("serving"), SPEC)


@pytest.fixture(scope="module")
def url(runtime):
    with running(runtime) as url:
        yield url


@pytest.fixture
def http(url):
    with httpx.Client(base_url=url) as client:
        yield client


def event(kind="impression", **fields):
    return {"event_id": str(uuid4()), "kind": kind, "user_id": "1", **fields}


REPLY_FIELDS = {
    "request_id", "user_id", "surface", "spec_version", "model_versions", "posts", "next_cursor", "degraded",
}  # fmt: skip
EXPLAINED = {"stage_scores", "probabilities", "value_contributions", "rules"}


def test_feed_answers_with_the_documented_fields(http):
    reply = http.get("/feed", params={"user_id": "1", "limit": 7})
    assert reply.status_code == 200
    page = reply.json()
    assert set(page) == REPLY_FIELDS
    assert page["user_id"] == "1"
    assert page["surface"] == "explore"
    assert page["degraded"] == []
    assert [post["position"] for post in page["posts"]] == list(range(7))
    assert {"post_id", "creator_id", "position", "score", "sources"} <= set(page["posts"][0])
    assert not EXPLAINED & set(page["posts"][0])
    assert isinstance(page["posts"][0]["post_id"], str)


def test_explain_adds_the_reasons(http):
    post = http.get("/feed", params={"user_id": "1", "explain": "true"}).json()["posts"][0]
    assert set(post) >= EXPLAINED
    assert set(post["probabilities"]) == set(post["value_contributions"])


def test_get_and_post_answer_alike(http):
    by_get = http.get("/feed", params={"user_id": "2", "limit": 5}).json()
    by_post = http.post("/feed", json={"user_id": "2", "limit": 5}).json()
    assert [p["post_id"] for p in by_get["posts"]] == [p["post_id"] for p in by_post["posts"]]


def test_context_of_a_request_counts(http):
    body = {
        "user_id": "nobody-yet",
        "context": {"language": "es", "country": "ES", "device": "ios", "session_id": "s1"},
    }
    page = http.post("/feed", json=body).json()
    assert {post["language"] for post in page["posts"]} == {"es"}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({}, "user_id"),
        ({"user_id": ""}, "user_id"),
        ({"user_id": "x" * 200}, "user_id"),
        ({"user_id": "a\nb"}, "user_id"),
        ({"user_id": "1", "limit": "0"}, "limit"),
        ({"user_id": "1", "limit": "101"}, "limit"),
        ({"user_id": "1", "limit": "many"}, "limit"),
        ({"user_id": "1", "surface": "moon"}, "surface"),
        ({"user_id": "1", "surface": "../etc"}, "surface"),
        ({"user_id": "1", "explain": "perhaps"}, "explain"),
        ({"user_id": "1", "cursor": "bm9uc2Vuc2U"}, "cursor"),
        ({"user_id": "1", "cursor": "é" * 20}, "cursor"),
    ],
)
def test_a_malformed_parameter_is_a_422_that_names_the_field(http, query, field):
    reply = http.get("/feed", params=query)
    assert reply.status_code == 422
    assert [complaint["loc"] for complaint in reply.json()["detail"]] == [["query", field]]


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({"user_id": "1", "colour": "red"}, ["body", "colour"]),
        ({"user_id": "1", "context": {"language": "English"}}, ["body", "context", "language"]),
        ({"user_id": 7}, ["body", "user_id"]),
        ({"user_id": "1", "cursor": "zzz"}, ["body", "cursor"]),
    ],
)
def test_a_malformed_body_is_a_422_that_names_the_field(http, body, loc):
    reply = http.post("/feed", json=body)
    assert reply.status_code == 422
    assert reply.json()["detail"][0]["loc"] == loc


@pytest.mark.parametrize("raw", [b"{", b"\xff\xfe", b"[" * 20_000, b"null", b'{"user_id": "1", "limit": 1e999}'])
def test_garbage_is_refused_and_the_server_lives(http, raw):
    reply = http.post("/feed", content=raw, headers={"Content-Type": "application/json"})
    assert reply.status_code in (400, 422)
    assert http.get("/healthz").status_code == 200


def test_a_known_surface_of_the_data_is_accepted(http):
    assert http.get("/feed", params={"user_id": "1", "surface": "tab_1"}).json()["surface"] == "tab_1"


def test_pages_never_repeat(http):
    shown, cursor = [], None
    for _ in range(6):
        query = {"user_id": "4", "limit": 20} | ({"cursor": cursor} if cursor else {})
        page = http.get("/feed", params=query).json()
        shown += [post["post_id"] for post in page["posts"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(shown) == len(set(shown)) > 60


def test_events_are_counted_once_and_bad_ones_refused_with_field_and_reason(http):
    page = http.get("/feed", params={"user_id": "1"}).json()
    post, request_id = page["posts"][0], page["request_id"]
    good = event(post_id=post["post_id"], request_id=request_id)
    batch = [
        good,
        event("like", post_id=post["post_id"], request_id=request_id, impression_id=good["event_id"]),
        event("like", post_id="2000000"),
        event("dance", post_id=post["post_id"]),
        event("click"),
        event("click", post_id=post["post_id"], event_at=(AS_OF + timedelta(hours=1)).isoformat()),
        event("click", post_id=post["post_id"], event_at="2026-03-14T10:00:00"),
        event("click", post_id=post["post_id"], event_at=(AS_OF - timedelta(days=30)).isoformat()),
        event("click", post_id=post["post_id"], request_id="0123456789abcdeX"),
        event("click", post_id=post["post_id"], creator_id="123456"),
        event("click", post_id=page["posts"][0]["post_id"], request_id=request_id, dwell_seconds=-1),
        event("click", user_id="2", post_id=post["post_id"], request_id=request_id),
        "not an object",
        {"kind": "like"},
    ]
    reply = http.post("/events", json={"events": batch})
    assert reply.status_code == 202
    found = reply.json()
    assert (found["accepted"], found["duplicates"]) == (2, 0)
    assert [(refusal["index"], refusal["field"]) for refusal in found["refused"]] == [
        (2, "post_id"), (3, "kind"), (4, "post_id"), (5, "event_at"), (6, "event_at"), (7, "event_at"),
        (8, "request_id"), (9, "creator_id"), (10, "dwell_seconds"), (11, "request_id"), (12, ""), (13, "event_id"),
    ]  # fmt: skip
    assert all(refusal["reason"] for refusal in found["refused"])
    again = http.post("/events", json={"events": batch[:2]}).json()
    assert (again["accepted"], again["duplicates"]) == (0, 2)


def test_an_impression_takes_over_what_was_served(http, runtime):
    page = http.get("/feed", params={"user_id": "7", "limit": 5, "cursor": ""} | {"user_id": "7"})
    assert page.status_code == 422
    page = http.get("/feed", params={"user_id": "7", "limit": 5}).json()
    post = page["posts"][3]
    sent = event(user_id="7", post_id=post["post_id"], request_id=page["request_id"], position=99)
    http.post("/events", json={"events": [sent]})
    with Journal(runtime.workspace.journal) as journal:
        kept = next(e for _, e in journal.since(0) if e.event_id == sent["event_id"])
    assert kept.position == 3
    assert kept.sources == tuple(post["sources"])
    assert kept.served_at == AS_OF
    assert kept.propensity == 1.0
    assert kept.spec_version == page["spec_version"]
    assert kept.creator_id == int(post["creator_id"])
    assert kept.surface == "explore"


def test_an_event_about_a_post_that_was_not_served_is_refused(http, runtime):
    page = http.get("/feed", params={"user_id": "7", "limit": 5}).json()
    shown = {post["post_id"] for post in page["posts"]}
    other = next(str(i) for i in runtime.snapshot.catalogue.post_ids.tolist() if str(i) not in shown)
    sent = event(user_id="7", post_id=other, request_id=page["request_id"])
    refused = http.post("/events", json={"events": [sent]}).json()["refused"]
    assert refused[0]["field"] == "post_id"
    assert "not served" in refused[0]["reason"]


def test_hide_and_block_act_on_the_next_feed(http):
    first = http.get("/feed", params={"user_id": "9", "limit": 20}).json()["posts"]
    hidden, blocked = first[0]["post_id"], first[1]["creator_id"]
    batch = [event("hide", user_id="9", post_id=hidden), event("block", user_id="9", creator_id=blocked)]
    assert http.post("/events", json={"events": batch}).json()["accepted"] == 2
    after = http.get("/feed", params={"user_id": "9", "limit": 100}).json()["posts"]
    assert hidden not in [post["post_id"] for post in after]
    assert blocked not in [post["creator_id"] for post in after]


@pytest.mark.parametrize("body", [{}, {"events": []}, {"events": "x"}, {"events": [{}] * 1001}])
def test_a_batch_of_the_wrong_shape_is_a_422(http, body):
    reply = http.post("/events", json=body)
    assert reply.status_code == 422
    assert reply.json()["detail"][0]["loc"] == ["body", "events"]


def test_a_body_over_the_limit_is_a_413(http):
    assert http.post("/events", content=b"x" * 2_000_001).status_code == 413

    def chunks():
        for _ in range(30):
            yield b"x" * 100_000

    reply = http.post("/events", content=chunks(), headers={"Content-Type": "application/json"})
    assert reply.status_code == 413


def test_a_served_request_can_be_explained_later(http):
    page = http.get("/feed", params={"user_id": "3", "limit": 4, "explain": "true"}).json()
    kept = http.get(f"/requests/{page['request_id']}").json()
    assert [post["post_id"] for post in kept["posts"]] == [post["post_id"] for post in page["posts"]]
    assert kept["posts"][0]["value_contributions"] == pytest.approx(page["posts"][0]["value_contributions"], rel=1e-5)
    assert http.get("/requests/00000000000000aa").status_code == 404
    assert http.get("/requests/xyz").status_code == 422
    assert http.get("/requests/ffffffffffffffff").status_code == 422


def test_health_readiness_metrics_and_openapi(http):
    assert http.get("/healthz").json() == {"status": "ok"}
    ready = http.get("/readyz").json()
    assert ready["is_ready"] is True
    assert ready["degraded"] == []
    text = http.get("/metrics").text
    assert 'vitrine_http_requests_total{method="GET",route="/healthz",status="200"}' in text
    document = http.get("/openapi.json").json()
    assert {"/feed", "/events", "/healthz", "/readyz", "/metrics", "/users/sample"} <= set(document["paths"])


def test_metrics_never_carry_ids_or_unknown_paths(http):
    http.get("/requests/00000000000000bb")
    http.get("/no/such/path-77")
    text = http.get("/metrics").text
    assert "00000000000000bb" not in text
    assert "path-77" not in text
    assert 'route="/requests/{request_id}"' in text


def test_page_and_its_parts_come_from_here_alone(http):
    page = http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for path in ("/static/style.css", "/static/feed.js", "/static/cards.js", "/static/events.js", "/static/icon.svg"):
        part = http.get(path)
        assert part.status_code == 200
        assert "http://" not in part.text.replace("http://www.w3.org/", "")
        assert "https://" not in part.text
    assert http.get("/static/../app.py").status_code == 404
    assert http.get("/static/%2e%2e/app.py").status_code == 404


def test_sample_users_name_their_topics(http):
    users = http.get("/users/sample").json()
    assert users[0] == {
        "user_id": "0", "country": "DE", "language": "de", "num_engagements": 50, "topics": ["Food", "topic 2"],
    }  # fmt: skip


def test_client_scrolls_and_sends(url):
    with VitrineClient(url) as vitrine:
        pages = []
        for page in vitrine.scroll("11", limit=15, explain=True):
            pages.append(page)
            if len(pages) == 3:
                break
        assert len({post.post_id for page in pages for post in page.posts}) == 45
        seen = vitrine.impression(pages[0], pages[0].posts[0])
        liked = vitrine.engagement(pages[0], pages[0].posts[0], "like", seen)
        assert vitrine.send([seen, liked]).accepted == 2
        assert vitrine.send([seen, liked]).duplicates == 2
        assert vitrine.feed("new", context=FeedContext(language="es")).posts[0].language == "es"
        assert len(vitrine.sample_users()) == 6
        with pytest.raises(InputError, match="surface"):
            vitrine.feed("11", surface="moon")
    with VitrineClient("http://127.0.0.1:9") as nowhere, pytest.raises(StoreUnavailableError):
        nowhere.feed("11")


def test_many_threads_get_whole_feeds(url):
    failures = []

    def read(user):
        with httpx.Client(base_url=url, timeout=30) as client:
            for _ in range(5):
                page = client.get("/feed", params={"user_id": str(user), "limit": 10}).json()
                if len({post["post_id"] for post in page["posts"]}) != 10:
                    failures.append(page)

    threads = [threading.Thread(target=read, args=(user,)) for user in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_store_down_is_a_200_from_the_fallback(tmp_path):
    snapshot = make_snapshot()
    reader = FakeReader(snapshot.catalogue)
    reader.is_down = True
    with running(make_runtime(tmp_path, SPEC, make_parts(snapshot, reader))) as url:
        reply = httpx.get(f"{url}/feed", params={"user_id": "1", "limit": 12})
        assert reply.status_code == 200
        assert len(reply.json()["posts"]) == 12
        assert reply.json()["degraded"] == ["features"]
        assert httpx.get(f"{url}/readyz").json()["degraded"] == ["features"]
        assert 'vitrine_degraded_total{part="features"}' in httpx.get(f"{url}/metrics").text


def test_a_journal_that_takes_nothing_is_a_503_and_nothing_is_acknowledged(tmp_path, monkeypatch):
    def refuse(self, events):
        raise StoreUnavailableError("/secret/path/journal.db: disk full")

    monkeypatch.setattr(Journal, "append", refuse)
    with running(make_runtime(tmp_path, SPEC)) as url:
        post_id = httpx.get(f"{url}/feed", params={"user_id": "1"}).json()["posts"][0]["post_id"]
        reply = httpx.post(f"{url}/events", json={"events": [event("like", post_id=post_id)]})
        assert reply.status_code == 503
        assert reply.headers["retry-after"] == "1"
        assert "secret" not in reply.text


def test_with_keys_every_route_but_health_needs_one(tmp_path):
    with running(make_runtime(tmp_path, SPEC, api_keys=(KEY, "another-key-of-ours"))) as url:
        for path in (
            "/feed?user_id=1",
            "/",
            "/metrics",
            "/users/sample",
            "/openapi.json",
            "/static/feed.js",
            "/nowhere",
        ):
            assert httpx.get(url + path).status_code == 401, path
            assert httpx.get(url + path, headers={"X-API-Key": "wrong"}).status_code == 401
        assert httpx.post(f"{url}/events", json={"events": []}).status_code == 401
        assert httpx.get(f"{url}/healthz").status_code == 200
        assert httpx.get(f"{url}/readyz").status_code == 200
        with VitrineClient(url, api_key=KEY) as vitrine:
            assert len(vitrine.feed("1").posts) == 20
