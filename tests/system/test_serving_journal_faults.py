"""No acknowledged event is lost or counted twice: kill -9 at any moment, and a disk that takes nothing more."""

import contextlib
import os
import resource
import signal
import subprocess
import time

import httpx
import numpy as np
import pytest

from serving.snapshot import save_snapshot
from tests.event_posters import Poster, check_journal, event, kept
from tests.feed_readers import Readers, check_replies
from tests.served_world import ForkedServer
from tests.serving_fakes import make_settings, make_snapshot


@pytest.fixture
def server(tmp_path):
    settings = make_settings(tmp_path)
    save_snapshot(settings.workspace, make_snapshot())
    server = ForkedServer(settings)
    yield server
    server.close()


@pytest.mark.parametrize("num_kills", [5, pytest.param(100, marks=pytest.mark.long)])
def test_kill_9_while_events_come_in_loses_and_doubles_none(server, num_kills):
    rng = np.random.default_rng(num_kills)
    clients = [Poster(server.url, f"client{i}") for i in range(3)]
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
    assert check_journal(server.settings, clients) > num_kills  # some each time, on however busy a machine


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


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 24 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_file_system_takes_no_event_and_stops_no_feed(small_disk):
    settings = make_settings(small_disk)
    save_snapshot(settings.workspace, make_snapshot())
    server = ForkedServer(settings)
    server.output = small_disk.parent / "server.log"
    posters = [Poster(server.url, f"poster{i}") for i in range(2)]
    try:
        server.start()
        with Readers(server.url) as readers:
            for poster in posters:
                poster.start()
            readers.wait_for(5)
            filler = small_disk / "filler"
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
            becomes(server, lambda found: {"journal", "served_log"} <= set(found))
            held = [len(poster.acknowledged) for poster in posters]
            readers.wait_for(20)
            assert [len(poster.acknowledged) for poster in posters] == held
            filler.unlink()
            becomes(server, lambda found: not {"journal", "served_log"} & set(found))
            deadline = time.monotonic() + 60
            while any(len(poster.acknowledged) == before for poster, before in zip(posters, held, strict=True)):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            for poster in posters:
                poster.is_over.set()
                poster.join(60)
        check_replies(readers.replies)
        server.kill(signal.SIGKILL)
        assert check_journal(settings, posters) > 10
    finally:
        server.close()


def becomes(server, is_so):
    deadline = time.monotonic() + 60
    while not is_so(found := httpx.get(f"{server.url}/readyz", timeout=30).json()["degraded"]):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
