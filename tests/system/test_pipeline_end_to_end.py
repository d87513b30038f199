"""The whole pipeline on a tiny world, from nothing to a live server that answers over loopback."""

import json
import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import yaml

from serving.spec_file import DEFAULT_SPEC

ROOT = Path(__file__).parents[2]
SCALE = "0.02"
PIPELINE_SECONDS = 900  # about one minute on two idle cores; a bound, not an expectation
SERVER_SECONDS = 180

# One process for every stage: each room's own command line, without paying ten imports of Feast and torch.
# `apply` alone is called as a function: its command would point feature_repo/data at this test's folder.
STAGES = """
import sys, time
from importlib import import_module
from core.settings import Settings

def run(room, *args):
    began = time.monotonic()
    app = import_module(f"{room}.__main__").app
    if app(list(args), standalone_mode=False):
        sys.exit(f"{room} {' '.join(args)} failed")
    print(f"STAGE {room} {' '.join(args)}: {time.monotonic() - began:.1f} s", flush=True)

run("events", "generate", "--preset", "world", "--scale", sys.argv[1])
run("validation", "events")
run("feature_repo", "build")
run("validation", "features")
from feature_repo.store import apply_definitions
apply_definitions(Settings().workspace)
run("feature_repo", "materialize")
run("training", "sets", "--quick")
run("validation", "training-set", "second_stage")
run("training", "retrieval", "--quick")
run("training", "second-stage", "--quick")
run("training", "index")
run("serving", "snapshot")
run("serving", "draw-candidates", "--requests", "40", "--tests", "10", "--fewest", "200", "--most", "400")
run("training", "first-stage", "--quick")
run("training", "index")
run("operations", "skew", "--requests", "10")
run("operations", "evaluate", "--seeds", "1", "--users", "10")
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    var = tmp_path_factory.mktemp("pipeline")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("VITRINE_")}
    return {
        **kept,
        "VITRINE_VAR_DIR": str(var),
        "VITRINE_REDIS_PORT": str(free_port()),
        "VITRINE_NUM_THREADS": "2",
        "OMP_NUM_THREADS": "2",
        "PYTHONWARNINGS": "ignore",
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture(scope="module")
def pipeline(environment):
    """Everything the pipeline printed; its Redis is stopped when the tests are over."""
    try:
        done = python(environment, "-c", STAGES, SCALE, timeout=PIPELINE_SECONDS)
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
        yield done.stdout
    finally:
        python(environment, "-m", "feature_repo", "redis-stop", timeout=30)


@pytest.fixture(scope="module")
def url(pipeline, environment):
    """A live server on a free loopback port."""
    port = free_port()
    log = Path(environment["VITRINE_VAR_DIR"]) / "server.log"
    # The shipped spec, in no hurry: this asks what is served, on a machine that may be busy with other tests.
    spec = yaml.safe_load(DEFAULT_SPEC.read_text())
    patient = {"request_ms": 60_000, "user_ms": 9_000, "retrieval_ms": 10_000, "second_stage_ms": 9_000}
    spec["deadlines"] |= patient
    spec["sources"]["two_tower"]["deadline_ms"] = 10_000
    environment = {**environment, "VITRINE_FUNNEL_SPEC": str(log.with_name("funnel.yaml"))}
    log.with_name("funnel.yaml").write_text(yaml.safe_dump(spec))
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "serving", "serve", "--port", str(port)],
            cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_healthy(server, address, log)
        yield address
    finally:
        server.terminate()
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def python(environment, *args, timeout):
    return subprocess.run(
        [sys.executable, *args], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_healthy(server, address, log):
    deadline = time.monotonic() + SERVER_SECONDS
    while time.monotonic() < deadline:
        assert server.poll() is None, f"the server ended: {log.read_text()[-3000:]}"
        try:
            if httpx.get(f"{address}/healthz", timeout=1).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    pytest.fail(f"no answer within {SERVER_SECONDS} s: {log.read_text()[-3000:]}")


def feed(url, user_id, **params):
    reply = httpx.get(f"{url}/feed", params={"user_id": user_id, **params}, timeout=20)
    assert reply.status_code == 200, reply.text
    return reply.json()


def sample_users(url):
    """Two users who speak the same language and did much, so that their feeds could be the same."""
    users = httpx.get(f"{url}/users/sample", timeout=20).json()
    by_language = {}
    for user in users:
        by_language.setdefault(user["language"], []).append(user["user_id"])
    return max(by_language.values(), key=len)[:2]


def test_every_stage_ran_and_the_evaluation_judged_it(pipeline):
    stages = [line for line in pipeline.splitlines() if line.startswith("STAGE ")]
    assert len(stages) == 16
    last = next(json.loads(line) for line in reversed(pipeline.splitlines()) if line.startswith("{"))
    assert set(last["policies"]) == {"random", "popularity", "item_to_item", "two_tower", "funnel", "oracle"}
    assert last["policies"]["oracle"]["gain"] == 1
    assert last["policies"]["funnel"]["value"] > last["policies"]["random"]["value"]


def test_served_features_are_those_that_training_would_join(pipeline):
    lines = [json.loads(line) for line in pipeline.splitlines() if line.startswith("{")]
    (skew,) = [line for line in lines if "num_unexplained" in line]
    assert skew["num_requests"] == 10
    assert skew["num_values"] > 100_000
    assert skew["num_different"] == 0


def test_the_server_is_ready_with_every_part(url):
    ready = httpx.get(f"{url}/readyz", timeout=20).json()
    assert ready["is_ready"]
    assert ready["degraded"] == []
    assert set(ready["model_versions"]) == {"retrieval", "first_stage", "second_stage"}
    assert datetime.fromisoformat(ready["now"]).year == 2026


def test_a_feed_is_full_and_undegraded_and_says_why(url):
    first, _ = sample_users(url)
    page = feed(url, first, limit=20, explain="true")
    assert page["degraded"] == []
    assert len({post["post_id"] for post in page["posts"]}) == 20
    post = page["posts"][0]
    assert post["sources"]
    assert 0 < post["probabilities"]["click"] < 1
    assert sum(post["value_contributions"].values()) == pytest.approx(post["stage_scores"]["value"], abs=1e-6)


def test_two_users_get_different_feeds(url):
    first, second = sample_users(url)
    posts = [[post["post_id"] for post in feed(url, user, limit=20)["posts"]] for user in (first, second)]
    assert posts[0] != posts[1]


def test_pages_do_not_repeat(url):
    user, _ = sample_users(url)
    page = feed(url, user, limit=15)
    following = feed(url, user, limit=15, cursor=page["next_cursor"])
    shown = [post["post_id"] for p in (page, following) for post in p["posts"]]
    assert len(shown) == len(set(shown)) == 30


def test_a_stranger_gets_a_feed(url):
    page = feed(url, "nobody-knows-me", limit=10)
    assert len(page["posts"]) == 10


def test_a_hide_acts_on_the_next_feed_and_an_event_counts_once(url):
    user, _ = sample_users(url)
    page = feed(url, user, limit=10)
    hidden = page["posts"][0]["post_id"]
    event = {
        "event_id": str(uuid4()), "kind": "hide", "user_id": user, "post_id": hidden, "request_id": page["request_id"],
    }  # fmt: skip
    replies = [httpx.post(f"{url}/events", json={"events": [event]}, timeout=20) for _ in range(2)]
    assert [reply.status_code for reply in replies] == [202, 202]
    assert [reply.json()["accepted"] for reply in replies] == [1, 0]
    assert replies[1].json()["duplicates"] == 1
    assert hidden not in [post["post_id"] for post in feed(url, user, limit=50)["posts"]]


def test_a_malformed_request_names_its_field(url):
    reply = httpx.get(f"{url}/feed", params={"user_id": "1", "limit": "many"}, timeout=20)
    assert reply.status_code == 422
    assert "limit" in reply.text


def test_status_sees_a_whole_workspace(url, environment):
    done = python(environment, "-m", "operations", "status", "--json", timeout=60)
    found = json.loads(done.stdout)
    assert found["degraded"] == []
    assert found["missing"] == []
