"""The embedded Redis of a running server dies: the server starts it again and feeds are whole. One that was stopped
stays down until somebody starts it."""

import os
import signal
import time

import httpx
import pytest

from feature_repo.stores.embedded import ensure_redis, running_endpoint, save_soon, stop_redis
from tests.served_world import fill_redis, make_world, served
from tests.waiting import until

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Feast's imports

SECONDS = 30


def test_a_killed_redis_comes_back_with_its_features_by_itself(tmp_path):
    settings = make_world(tmp_path)
    workspace = settings.workspace
    try:
        fill_redis(settings, ensure_redis(workspace, settings))
        save_soon(workspace)
        with served(settings) as server:

            def degraded():
                reply = httpx.get(f"{server.url}/feed", params={"user_id": "1", "limit": 20}, timeout=30)
                assert len(reply.raise_for_status().json()["posts"]) == 20
                return reply.json()["degraded"]

            until(lambda: degraded() == [], SECONDS, "every stage ranks")
            first = running_endpoint(workspace).pid
            os.kill(first, signal.SIGKILL)
            until(lambda: degraded() == ["features"], SECONDS, "the feed says what it does without")
            until(lambda: degraded() == [], SECONDS, "Redis is back, with the features that were saved")
            assert running_endpoint(workspace).pid != first
            stop_redis(workspace)
            until(lambda: degraded() == ["features"], SECONDS, "it was stopped")
            time.sleep(3)
            assert degraded() == ["features"]
            assert running_endpoint(workspace) is None
            ensure_redis(workspace, settings)
            until(lambda: degraded() == [], SECONDS, "it was started")
    finally:
        stop_redis(workspace)
