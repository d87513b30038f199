"""No acknowledged event is lost or counted twice: kill -9 at any moment, and a disk that takes nothing more."""

import resource
import signal
import threading
import time
from collections import Counter

import httpx
import numpy as np
import pytest

from events.journal import Journal
from serving.snapshot import save_snapshot
from tests.served_world import ForkedServer
from tests.serving_fakes import make_settings, make_snapshot


@pytest.fixture
def server(tmp_path):
    settings = make_settings(tmp_path)
    save_snapshot(settings.workspace, make_snapshot())
    server = ForkedServer(settings)
    yield server
    server.close()


def event(event_id, number):
    return {
        "event_id": event_id, "kind": "click", "user_id": str(number % 30), "post_id": str(2 * (number % 600) + 1),
        "dwell_seconds": number % 60,
    }  # fmt: skip


class Client(threading.Thread):
    """Posts batches, each again until it is acknowledged, and remembers what was."""

    def __init__(self, url, name):
        super().__init__(daemon=True)
        self.url, self.label, self.is_over = url, name, threading.Event()
        self.sent, self.acknowledged, self.wrong = {}, {}, []

    def run(self):
        number = 0
        while not self.is_over.is_set():
            batch = [event(f"{self.label}-{number + i}", number + i) for i in range(1 + number % 7)]
            number += len(batch)
            self.sent |= {e["event_id"]: e for e in batch}
            while not self._post(batch):
                if self.is_over.is_set():
                    return
                time.sleep(0.02)
            self.acknowledged |= {e["event_id"]: e for e in batch}

    def _post(self, batch):
        try:
            reply = httpx.post(f"{self.url}/events", json={"events": batch}, timeout=30)
        except httpx.TransportError:
            return False
        if reply.status_code != 202:
            self.wrong += [] if reply.status_code == 503 else [reply.text]
            return False
        found = reply.json()
        if found["refused"] or found["accepted"] + found["duplicates"] != len(batch):
            self.wrong.append(found)
        return True


def kept(settings):
    with Journal(settings.workspace.journal) as journal:
        return [found for _, found in journal.since(0, limit=10_000_000)]


@pytest.mark.parametrize("num_kills", [5, pytest.param(100, marks=pytest.mark.long)])
def test_kill_9_while_events_come_in_loses_and_doubles_none(server, num_kills):
    rng = np.random.default_rng(num_kills)
    clients = [Client(server.url, f"client{i}") for i in range(3)]
    for number in range(num_kills):
        server.start()
        if number == 0:
            for client in clients:
                client.start()
        time.sleep(rng.uniform(0.05, 0.6))
        server.kill(signal.SIGKILL)
    for client in clients:
        client.is_over.set()
        client.join(60)
    acknowledged = {k: v for client in clients for k, v in client.acknowledged.items()}
    sent = {k: v for client in clients for k, v in client.sent.items()}
    found = kept(server.settings)
    assert [wrong for client in clients for wrong in client.wrong] == []
    assert len(acknowledged) > 10 * num_kills
    assert [k for k, times in Counter(e.event_id for e in found).items() if times > 1] == []
    assert set(acknowledged) <= {e.event_id for e in found} <= set(sent)
    for e in found:
        given = sent[e.event_id]
        assert (str(e.user_id), str(e.post_id), e.dwell_seconds) == (
            given["user_id"], given["post_id"], given["dwell_seconds"],
        )  # fmt: skip


def test_a_disk_that_takes_nothing_more_is_a_503_for_events_while_feeds_go_on(server):
    server.start()
    pid, size = server.pid, server.settings.workspace.journal.stat().st_size
    acknowledged, number = set(), 0

    def post():
        nonlocal number
        batch = [event(f"e{number + i}", number + i) for i in range(200)]
        number += len(batch)
        reply = httpx.post(f"{server.url}/events", json={"events": batch}, timeout=30)
        if reply.status_code == 202:
            acknowledged.update(e["event_id"] for e in batch)
        return reply

    assert post().status_code == 202
    unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size + 300_000, unlimited[1]))
    replies = [post() for _ in range(20)]
    assert replies[-1].status_code == 503
    assert int(replies[-1].headers["retry-after"]) >= 1
    assert {reply.status_code for reply in replies} <= {202, 503}
    assert "journal" in httpx.get(f"{server.url}/readyz").json()["degraded"]
    for user in range(5):
        page = httpx.get(f"{server.url}/feed", params={"user_id": str(user)}, timeout=30)
        assert page.status_code == 200
        assert len(page.json()["posts"]) == 20
    resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
    assert post().status_code == 202
    assert "journal" not in httpx.get(f"{server.url}/readyz").json()["degraded"]
    server.kill(signal.SIGKILL)
    assert {e.event_id for e in kept(server.settings)} == acknowledged
