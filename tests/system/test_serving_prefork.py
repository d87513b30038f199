"""Several server processes on one port: they share the work and the stores, and one that dies is replaced."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from events.journal import Journal
from feature_repo.stores.embedded import stop_redis
from serving.snapshot import save_snapshot
from tests.serving_fakes import make_settings, make_snapshot
from tests.waiting import until

SECONDS = 120


@pytest.fixture
def settings(tmp_path):
    settings = make_settings(tmp_path)
    yield settings
    stop_redis(settings.workspace)


def start(settings, workers):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "serving", "serve", "--port", str(port), "--workers", str(workers)]
    variables = {"VITRINE_VAR_DIR": str(settings.var_dir), "VITRINE_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env={**os.environ, **variables}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return process, f"http://127.0.0.1:{port}"


def children(process):
    return set(map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()))


def answers(url):
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_workers_share_port_and_stores_and_a_killed_one_is_replaced(settings):
    save_snapshot(settings.workspace, make_snapshot())
    process, url = start(settings, 2)
    try:
        until(lambda: len(children(process)) == 2 and answers(url), SECONDS)
        shown, cursor = [], None
        for number in range(12):
            params = {"user_id": "1", "limit": 5, **({"cursor": cursor} if cursor else {})}
            # Every call has a connection of its own, so pages of the visit come from either process.
            page = httpx.get(f"{url}/feed", params=params, timeout=30).raise_for_status().json()
            shown += [post["post_id"] for post in page["posts"]]
            cursor = page["next_cursor"]
            sent = {"event_id": f"e{number}", "kind": "click", "user_id": "1", "post_id": shown[-1]}
            assert httpx.post(f"{url}/events", json={"events": [sent, sent]}).json()["accepted"] == 1
        assert len(shown) == len(set(shown)) == 60
        before = children(process)
        process.send_signal(signal.SIGHUP)
        assert all(answers(url) for _ in range(8))
        assert children(process) == before
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        until(lambda: len(children(process) - {victim}) == 2, SECONDS)
        until(lambda: all(answers(url) for _ in range(8)), SECONDS)
        process.terminate()
        assert process.wait(30) == 0
        with Journal(settings.workspace.journal) as journal:
            assert len(journal.since(0)) == 12
    finally:
        process.kill()
        process.wait(30)
        process.stdout.close()


def test_workers_that_cannot_start_end_the_server_with_the_reason(settings):
    process, _ = start(settings, 2)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "python -m serving snapshot" in output
