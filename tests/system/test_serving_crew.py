"""One server of two processes: a scrape tells the sum, a key's rate holds over both, each takes a new snapshot over."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from feature_repo.stores.embedded import stop_redis
from serving.api_keys import add_key
from serving.security import Role
from serving.snapshot import save_snapshot
from tests.grown_snapshots import grown_snapshot
from tests.serving_fakes import make_settings, make_snapshot
from tests.waiting import until

SECONDS = 120
SLOW = 4
"""Calls per second that the slow key may make."""


class Server:
    """The command as a user runs it, with keys."""

    def __init__(self, folder):
        self.settings = make_settings(folder)
        self.workspace = self.settings.workspace
        save_snapshot(self.workspace, make_snapshot())
        self.key, _ = add_key(self.workspace.api_keys, "admin", Role.ADMIN, rate=0)
        self.slow_key, _ = add_key(self.workspace.api_keys, "slow", Role.READ, rate=SLOW)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.output = folder / "server.log"
        variables = {"VITRINE_VAR_DIR": str(self.settings.var_dir), "VITRINE_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "serving", "serve", "--port", str(port), "--workers", "2"]
        with self.output.open("w") as output:
            self.process = subprocess.Popen(command, env={**os.environ, **variables}, stdout=output, stderr=output)
        until(lambda: len(self.workers()) == 2 and all(self.answers() for _ in range(8)), SECONDS, "two workers answer")

    def answers(self):
        try:
            return httpx.get(f"{self.url}/healthz").status_code == 200
        except httpx.TransportError:
            assert self.process.poll() is None, self.output.read_text()[-3000:]
            return False

    def get(self, path, key=None, **params):
        # A connection of its own each, which the kernel gives to either process.
        return httpx.get(f"{self.url}{path}", params=params, headers={"X-API-Key": key or self.key}, timeout=30)

    def workers(self):
        pid = self.process.pid
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    def count(self, name, **labels):
        text = self.get("/metrics").raise_for_status().text
        families = text_string_to_metric_families(text)
        found = [s for family in families for s in family.samples if s.name == name]
        return sum(s.value for s in found if labels.items() <= s.labels.items())

    def close(self):
        self.process.terminate()
        try:
            assert self.process.wait(30) == 0
        finally:
            self.process.kill()
            stop_redis(self.workspace)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("crew"))
    yield server
    server.close()


def test_a_scrape_of_either_process_tells_the_sum_and_no_sum_ever_falls(server):
    for user in range(40):
        assert server.get("/feed", user_id=str(user)).status_code == 200

    def feeds():
        return server.count("vitrine_http_requests_total", route="/feed", status="200")

    until(lambda: [feeds() for _ in range(6)] == [40] * 6, SECONDS, "both tell 40")
    os.kill(min(server.workers()), signal.SIGKILL)
    until(lambda: len(server.workers()) == 2 and all(server.answers() for _ in range(8)), SECONDS, "two workers again")
    for user in range(10):
        assert server.get("/feed", user_id=str(user)).status_code == 200
    until(lambda: [feeds() for _ in range(6)] == [50] * 6, SECONDS, "both tell 50, those of the killed one among them")
    assert server.count("vitrine_stage_seconds_count", stage="rerank") >= 50


def test_a_keys_rate_holds_over_both_processes_together(server):
    until(lambda: server.get("/trending", server.slow_key).status_code == 200, SECONDS, "the key is known")
    time.sleep(1.5)  # its bucket is full again
    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: server.get("/trending", server.slow_key).status_code, range(80)))
    allowed, elapsed = answers.count(200), time.monotonic() - began
    assert set(answers) == {200, 429}
    assert SLOW <= allowed <= SLOW * (1 + elapsed) + 1


def test_each_process_takes_a_newer_snapshot_over_and_lets_the_old_one_go(server):
    old = str(server.workspace.snapshot / server.get("/readyz").json()["snapshot_id"])
    workers = server.workers()
    assert all(old in Path(f"/proc/{pid}/maps").read_text() for pid in workers)
    failures, is_over = [], threading.Event()

    def scroll():
        cursor = None
        while not is_over.is_set():
            params = {"user_id": "3", "limit": 5} | ({"cursor": cursor} if cursor else {})
            reply = server.get("/feed", **params)
            if reply.status_code != 200:
                failures.append(reply.text)
                return
            cursor = reply.json()["next_cursor"]

    thread = threading.Thread(target=scroll)
    thread.start()
    save_snapshot(server.workspace, grown_snapshot(2))
    until(
        lambda: [server.get("/readyz").json()["snapshot_id"] for _ in range(8)] == ["snapshot-2"] * 8,
        SECONDS,
        "both serve it",
    )
    until(
        lambda: not any(old in Path(f"/proc/{pid}/maps").read_text() for pid in workers),
        SECONDS,
        "nobody maps the old one",
    )
    is_over.set()
    thread.join(30)
    assert failures == []
    assert server.workers() == workers
