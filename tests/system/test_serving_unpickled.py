"""The whole serving path, from its imports to a feed of every stage, where nothing can unpickle."""

import os
import subprocess
import sys

import pytest

from tests.faulty_redis import FaultyRedis
from tests.served_world import fill_redis, make_world

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Feast's imports

SCRIPT = """
import _pickle, io, pickle, sys
import dill

def refuse(*_, **__):
    raise AssertionError("something unpickles")

class Unpickler(pickle._Unpickler):  # libraries derive theirs from it, and may; reading with it is what is refused
    load = refuse

pickle.Unpickler = pickle._Unpickler = _pickle.Unpickler = dill.Unpickler = dill._dill.Unpickler = Unpickler
for module in (pickle, _pickle, dill, dill._dill):
    module.load = module.loads = refuse
pickle._load = pickle._loads = refuse
for way in (lambda: pickle.loads(b"N."), lambda: pickle.Unpickler(io.BytesIO(b"N.")).load(), lambda: dill.loads(b"N.")):
    try:
        way()
    except AssertionError:
        continue
    sys.exit("the test itself refuses nothing")

import httpx
from core.settings import Settings
from serving.bootstrap import build_runtime
from tests.serving_server import running

with running(build_runtime(Settings())) as url:
    page = httpx.get(f"{url}/feed", params={"user_id": "1"}, timeout=60).json()
assert len(page["posts"]) == 20, page
assert page["degraded"] == [], page["degraded"]
assert set(page["model_versions"]) == {"retrieval", "first_stage", "second_stage"}
"""


def test_a_feed_of_every_stage_is_served_without_unpickling(tmp_path):
    redis = FaultyRedis()
    try:
        settings = make_world(tmp_path, has_graphs=True)
        fill_redis(settings, redis.url)
        variables = {"VITRINE_VAR_DIR": str(tmp_path), "VITRINE_REDIS_URL": redis.url}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", SCRIPT], env={**os.environ, **variables},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    finally:
        redis.close()
