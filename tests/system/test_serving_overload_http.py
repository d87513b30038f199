"""Overload, cursors and explanations over HTTP."""

import threading
from dataclasses import replace

import httpx
import pytest

from serving.precompute import precompute
from tests.serving_fakes import FakeModel, make_parts, make_runtime, make_snapshot, make_spec
from tests.serving_server import running


class HeldModel(FakeModel):
    """Ranks when it is let go."""

    def __init__(self):
        super().__init__()
        self.begun, self.let_go = threading.Event(), threading.Event()

    def probabilities(self, user, post, cross):
        self.begun.set()
        assert self.let_go.wait(20)
        return super().probabilities(user, post, cross)


def spec_with(**overload):
    limits = {"max_in_flight": 1, "max_queue": 1, "max_wait_ms": 10} | overload
    return make_spec(eligibility={"min_pool": 5}, overload=limits, paging={"prefetch": False})


@pytest.fixture
def busy(tmp_path):
    """A server whose only turn is taken until the end, and the way to end it."""
    servers = []

    def start(**overload):
        model = HeldModel()
        model.let_go.set()
        parts = replace(make_parts(make_snapshot()), second_stage=model)
        runtime = make_runtime(tmp_path, spec_with(**overload), parts)
        precompute(runtime, [1])
        context = running(runtime)
        url = context.__enter__()  # a server that starts ranks a feed in vain
        model.let_go.clear()
        model.begun.clear()
        taken = []
        first = threading.Thread(
            target=lambda: taken.append(httpx.get(f"{url}/feed", params={"user_id": "3"}, timeout=30))
        )
        first.start()
        assert model.begun.wait(10)

        def end():
            model.let_go.set()
            first.join(10)
            return taken[0]

        servers.append((end, context))
        return url, end

    yield start
    for end, context in servers:
        end()
        context.__exit__(None, None, None)


def test_excess_is_answered_from_the_reserve_while_the_turn_is_taken_and_ranked_again_after(busy):
    url, end = busy()
    chosen = httpx.get(f"{url}/feed", params={"user_id": "1"}).json()
    assert chosen["degraded"] == ["precomputed"]
    assert len(chosen["posts"]) == 20
    other = httpx.get(f"{url}/feed", params={"user_id": "2", "limit": 7}).json()
    assert other["degraded"] == ["popular"]
    assert len(other["posts"]) == 7
    explained = httpx.get(f"{url}/explain/{chosen['request_id']}").json()
    assert [stage["name"] for stage in explained["rankings"][0]["stages"]] == ["precomputed"]
    assert explained["posts"][0]["probabilities"]["click"] > 0
    assert end().json()["degraded"] == []
    onward = httpx.get(f"{url}/feed", params={"user_id": "1", "cursor": chosen["next_cursor"]}).json()
    assert onward["degraded"] == []
    assert not {p["post_id"] for p in onward["posts"]} & {p["post_id"] for p in chosen["posts"]}
    text = httpx.get(f"{url}/metrics").text
    assert 'vitrine_admission_total{outcome="shed"} 2.0' in text


def test_what_even_the_reserve_has_no_room_for_is_a_503_that_says_when_to_come_back(busy):
    url, _ = busy(max_shed=0)
    reply = httpx.get(f"{url}/feed", params={"user_id": "2"})
    assert reply.status_code == 503
    assert reply.headers["retry-after"] == "1"
    assert httpx.get(f"{url}/healthz").status_code == 200


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with running(make_runtime(tmp_path_factory.mktemp("explain"), spec_with(max_in_flight=4))) as url:
        yield url


def test_a_page_is_explained_whole_and_post_by_post(url):
    page = httpx.get(f"{url}/feed", params={"user_id": "4", "limit": 5, "explain": "true"}).json()
    whole = httpx.get(f"{url}/explain/{page['request_id']}").json()
    assert [post["post_id"] for post in whole["posts"]] == [post["post_id"] for post in page["posts"]]
    stages = {stage["name"]: stage for stage in whole["rankings"][0]["stages"]}
    assert stages["second_stage"]["num_out"] > 0
    assert stages["eligibility"]["removed"]
    third = page["posts"][2]
    one = httpx.get(f"{url}/explain/{page['request_id']}/posts/{third['post_id']}").json()
    assert one["value_contributions"] == pytest.approx(third["value_contributions"], rel=1e-5)
    assert (one["position"], one["propensity"], one["sources"]) == (2, 1.0, third["sources"])
    assert one["ranking_id"] == whole["rankings"][0]["ranking_id"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/explain/00000000000000aa", 404), ("/explain/xyz", 422), ("/explain/ffffffffffffffff", 422),
        ("/explain/00000000000000aa/posts/1", 404),
    ],
)  # fmt: skip
def test_what_cannot_be_explained_is_a_clear_4xx(url, path, status):
    reply = httpx.get(url + path)
    assert reply.status_code == status
    assert reply.json()["detail"]


def test_a_post_that_a_request_did_not_serve_is_a_404(url):
    page = httpx.get(f"{url}/feed", params={"user_id": "4", "limit": 2}).json()
    assert httpx.get(f"{url}/explain/{page['request_id']}/posts/nowhere").status_code == 404


def test_a_tampered_cursor_is_a_422_that_names_the_field(url):
    cursor = httpx.get(f"{url}/feed", params={"user_id": "4"}).json()["next_cursor"]
    swapped = cursor[:20] + ("A" if cursor[20] != "A" else "B") + cursor[21:]
    reply = httpx.get(f"{url}/feed", params={"user_id": "4", "cursor": swapped})
    assert reply.status_code == 422
    assert reply.json()["detail"][0]["loc"] == ["query", "cursor"]


def test_every_cache_tells_what_it_is_and_how_often_it_answered(url):
    first = httpx.get(f"{url}/feed", params={"user_id": "5", "limit": 5}).json()
    httpx.get(f"{url}/feed", params={"user_id": "5", "limit": 5, "cursor": first["next_cursor"]})
    caches = {cache["name"]: cache for cache in httpx.get(f"{url}/caches").json()}
    assert set(caches) == {"post_features", "creator_features", "eligibility", "slates"}
    assert all(cache["key"] and cache["invalidation"] for cache in caches.values())
    assert caches["slates"]["num_hits"] >= 1
    assert 0 < caches["slates"]["hit_rate"] < 1
    assert 'vitrine_cache_requests_total{cache="slates",outcome="hit"}' in httpx.get(f"{url}/metrics").text
