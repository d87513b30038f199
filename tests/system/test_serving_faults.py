"""A server process over a Redis that dies, freezes, forgets and dawdles: every feed is whole, says what it did
without, and recovers by itself."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.faulty_redis import FaultyRedis
from tests.served_world import fill_redis, make_world, served

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Feast's imports

RECOVERY_SECONDS = 20


@pytest.fixture(scope="module")
def redis_():
    server = FaultyRedis()
    yield server
    server.close()


@pytest.fixture(scope="module")
def settings(tmp_path_factory, redis_):
    settings = make_world(tmp_path_factory.mktemp("faults"))
    fill_redis(settings, redis_.url)
    return settings


@pytest.fixture(scope="module")
def url(settings, redis_):
    with served(settings, VITRINE_REDIS_URL=redis_.url) as server:
        yield server.url


def feed(url, user=1):
    reply = httpx.get(f"{url}/feed", params={"user_id": str(user), "limit": 20, "explain": True}, timeout=30)
    assert reply.status_code == 200, reply.text
    page = reply.json()
    assert len({post["post_id"] for post in page["posts"]}) == 20
    return page


def ready(url):
    return httpx.get(f"{url}/readyz", timeout=30).json()["degraded"]


def recovers(url):
    deadline = time.monotonic() + RECOVERY_SECONDS
    while feed(url)["degraded"] or ready(url):
        assert time.monotonic() < deadline, (feed(url)["degraded"], ready(url))
        time.sleep(0.2)


def test_a_whole_world_is_served_by_every_stage(url):
    recovers(url)
    page = feed(url)
    assert set(page["model_versions"]) == {"retrieval", "first_stage", "second_stage"}
    assert "two_tower" in {source for post in page["posts"] for source in post["sources"]}


def test_redis_killed_and_back(url, settings, redis_):
    recovers(url)
    redis_.kill()
    with ThreadPoolExecutor(8) as pool:
        pages = list(pool.map(lambda user: feed(url, user), range(24)))
    assert {tuple(page["degraded"]) for page in pages} == {("features",)}
    assert ready(url) == ["features"]
    redis_.start()
    fill_redis(settings, redis_.url)
    recovers(url)


def test_redis_frozen_costs_one_wait_and_not_one_per_request(url, redis_):
    recovers(url)
    redis_.pause()
    try:
        feed(url)
        pages = [feed(url, user) for user in range(10)]
        assert {tuple(page["degraded"]) for page in pages} == {("features",)}
        assert ready(url) == ["features"]
    finally:
        redis_.resume()
    recovers(url)


def test_redis_back_empty_says_so_for_known_users_until_it_is_filled(url, settings, redis_):
    recovers(url)
    redis_.kill()
    feed(url)
    redis_.start()
    deadline = time.monotonic() + RECOVERY_SECONDS
    while (degraded := feed(url)["degraded"]) == ["features"] and time.monotonic() < deadline:
        time.sleep(0.2)
    assert degraded == ["user_features"]
    fill_redis(settings, redis_.url)
    recovers(url)


def test_redis_slow_by_200_ms_still_feeds_and_never_lies(url, redis_):
    recovers(url)
    redis_.delay_seconds = 0.2
    try:
        with ThreadPoolExecutor(4) as pool:
            pages = list(pool.map(lambda user: feed(url, user), range(12)))
    finally:
        redis_.delay_seconds = 0.0
    for page in pages:
        is_ranked = all(post["probabilities"] for post in page["posts"])
        assert is_ranked != bool({"features", "second_stage"} & set(page["degraded"]))
    recovers(url)
