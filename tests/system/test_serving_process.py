"""The server as its own process: starts without models and Redis, and keeps what it acknowledged through kill -9."""

import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

from events.journal import Journal
from feature_repo.stores.embedded import stop_redis
from serving.snapshot import save_snapshot
from serving.spec_file import DEFAULT_SPEC
from tests.serving_fakes import make_runtime, make_settings, make_snapshot
from tests.serving_server import running


@pytest.fixture
def settings(tmp_path):
    settings = make_settings(tmp_path)
    save_snapshot(settings.workspace, make_snapshot())
    yield settings
    stop_redis(settings.workspace)


@pytest.fixture
def server(settings):
    servers = []

    def start_one(**more):
        servers.append(start(settings, **more))
        return servers[-1]

    yield start_one
    for process, _ in servers:
        if process.poll() is None:
            stop(process, signal.SIGKILL)


def start(settings, **more):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"VITRINE_VAR_DIR": str(settings.var_dir), "VITRINE_NUM_THREADS": "1", **more}
    process = subprocess.Popen(
        [sys.executable, "-m", "serving", "serve", "--port", str(port)],
        env={**os.environ, **variables}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/healthz").status_code == 200:
                return process, url
        except httpx.TransportError:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
    process.kill()
    raise AssertionError("the server did not start")


def stop(process, how=signal.SIGTERM):
    process.send_signal(how)
    process.wait(20)
    process.stderr.close()


def test_acknowledged_events_and_cursors_survive_kill_9(settings, server):
    process, url = server()
    page = httpx.get(f"{url}/feed", params={"user_id": "1", "limit": 10}).json()
    assert len(page["posts"]) == 10
    assert page["degraded"] == ["user_features", "first_stage", "second_stage"]
    acknowledged = []
    for number in range(25):
        post = page["posts"][number % 10]
        sent = {"event_id": f"e{number}", "kind": "click", "user_id": "1", "post_id": post["post_id"]}
        assert httpx.post(f"{url}/events", json={"events": [sent]}).status_code == 202
        acknowledged.append(sent)
    stop(process, signal.SIGKILL)
    with Journal(settings.workspace.journal) as journal:
        assert [event.event_id for _, event in journal.since(0)] == [sent["event_id"] for sent in acknowledged]
    # The next server on the same workspace; in this process, because a second start would only cost time.
    with running(make_runtime(settings.var_dir)) as url:
        again = httpx.post(f"{url}/events", json={"events": acknowledged}).json()
        assert (again["accepted"], again["duplicates"]) == (0, 25)
        after = httpx.get(f"{url}/feed", params={"user_id": "1", "limit": 10, "cursor": page["next_cursor"]})
        assert after.status_code == 200
        shown = {post["post_id"] for post in page["posts"]}
        assert not shown & {post["post_id"] for post in after.json()["posts"]}


def test_hang_up_reads_the_specs_again_and_an_invalid_one_is_refused(tmp_path, server):
    spec = tmp_path / "funnel.yaml"
    text = DEFAULT_SPEC.read_text()
    spec.write_text(text)
    process, url = server(VITRINE_FUNNEL_SPEC=str(spec))
    first = httpx.get(f"{url}/readyz").json()
    assert first["spec_refused"] is None

    def after_hang_up(is_done):
        process.send_signal(signal.SIGHUP)
        for _ in range(300):
            found = httpx.get(f"{url}/readyz").json()
            if is_done(found):
                return found
            time.sleep(0.05)
        raise AssertionError(found)

    spec.write_text(text.replace("slate_size: 100", "slate_size: 0"))
    refused = after_hang_up(lambda found: found["spec_refused"])
    assert refused["is_ready"]
    assert refused["spec_version"] == first["spec_version"]
    assert "rerank.slate_size" in refused["spec_refused"]
    spec.write_text(text.replace("slate_size: 100", "slate_size: 50"))
    taken = after_hang_up(lambda found: found["spec_refused"] is None)
    assert taken["spec_version"] != first["spec_version"]
    page = httpx.get(f"{url}/feed", params={"user_id": "1"}).json()
    assert page["spec_version"] == taken["spec_version"] == taken["surfaces"]["explore"]


def test_serving_on_all_addresses_without_keys_ends_at_once_with_the_reason(settings):
    found = subprocess.run(
        [sys.executable, "-m", "serving", "serve", "--host", "0.0.0.0", "--port", "18998"],
        env={**os.environ, "VITRINE_VAR_DIR": str(settings.var_dir)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert found.returncode == 1
    assert "ConfigError" in found.stderr
    assert "VITRINE_API_KEYS" in found.stderr
    assert "Traceback" not in found.stderr
