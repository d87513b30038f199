"""A server process over a Redis that dies, freezes, forgets and dawdles while users scroll: every feed is whole, says
what it did without, and recovers by itself."""

import time

import httpx
import pytest

from tests.faulty_redis import FaultyRedis
from tests.feed_readers import Readers, Reply, check_replies
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


@pytest.fixture
def readers(url, settings, redis_):
    """Users who scroll all through a test that begins and ends with everything in its place."""
    recovers(url)
    with Readers(url) as readers:
        readers.wait_for(5)
        try:
            yield readers
        finally:
            redis_.mend()
            fill_redis(settings, redis_.url)
    check_replies(readers.replies)
    recovers(url)


def degraded(url):
    reply = httpx.get(f"{url}/feed", params={"user_id": "1"}, timeout=30).raise_for_status()
    return set(reply.json()["degraded"])


def ready(url):
    return httpx.get(f"{url}/readyz", timeout=30).raise_for_status().json()["degraded"]


def recovers(url):
    deadline = time.monotonic() + RECOVERY_SECONDS
    while (found := (degraded(url), ready(url))) != (set(), []):
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def becomes(url, expected):
    """Waits until readiness says it."""
    deadline = time.monotonic() + RECOVERY_SECONDS
    while ready(url) != expected:
        assert time.monotonic() < deadline, ready(url)
        time.sleep(0.05)


def named(replies):
    """What first pages of visits named. Later ones may come from before, and `popular` was not for want of Redis."""
    firsts: dict[tuple[int, int], Reply] = {}
    for reply in replies:
        firsts.setdefault(reply.visit, reply)
    return [reply.degraded for reply in firsts.values() if reply.status == 200 and "popular" not in reply.degraded]


def test_a_whole_world_is_served_by_every_stage(url):
    recovers(url)
    page = httpx.get(f"{url}/feed", params={"user_id": "1", "explain": True}).json()
    assert set(page["model_versions"]) == {"retrieval", "first_stage", "second_stage"}
    assert "two_tower" in {source for post in page["posts"] for source in post["sources"]}
    assert all(post["probabilities"] for post in page["posts"])


def test_redis_killed_and_back(url, readers, redis_):
    redis_.kill()
    becomes(url, ["features"])
    found = readers.wait_for(20)
    assert {"features"} in named(found)
    assert set() not in named(found)


def test_redis_frozen_costs_one_wait_and_not_one_per_request(url, readers, redis_):
    redis_.pause()
    becomes(url, ["features"])
    found = readers.wait_for(30)
    assert {"features"} in named(found)
    assert set() not in named(found)
    waited = [reply for reply in found if reply.seconds > 0.45]  # VITRINE_FEATURE_SECONDS is half a second
    assert len(waited) < len(found) / 2


def test_redis_back_empty_says_so_for_known_users_until_it_is_filled(url, readers, redis_):
    redis_.kill()
    becomes(url, ["features"])
    redis_.start()
    becomes(url, ["user_features"])
    assert {"user_features"} in named(readers.wait_for(20))
    assert set() not in named(readers.wait_for(20))


def test_redis_slow_by_200_ms_still_feeds_and_never_lies(readers, redis_):
    redis_.delay_seconds = 0.2
    readers.wait_for(1)
    found = readers.wait_for(20)
    # The first read takes all the time there is: what then was not ranked is named.
    assert any(parts & {"features", "first_stage", "second_stage"} for parts in named(found))
