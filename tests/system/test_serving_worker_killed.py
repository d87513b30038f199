"""One of two server processes is killed again and again while users scroll and events come in: the other goes on, a new
one takes the place, only the connections of the dead one break, and no acknowledged event is lost or doubled."""

import os
import signal
import time
from pathlib import Path

import httpx
import pytest

from serving.workers import EARLY_SECONDS
from tests.event_posters import Poster, check_journal
from tests.feed_readers import Readers, check_replies
from tests.redis_servers import redis_server
from tests.served_world import fill_redis, make_world, served
from tests.waiting import until

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Feast's imports

SECONDS = 120


def children(server):
    return list(map(int, Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()))


def listens(process, port):
    """Whether the process itself accepts connections at the port."""
    inodes = {str(fd.readlink()) for fd in Path(f"/proc/{process}/fd").iterdir() if fd.is_symlink()}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    at_port = [row for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port]
    return any(f"socket:[{row[9]}]" in inodes for row in at_port)


@pytest.mark.parametrize("num_kills", [4, pytest.param(25, marks=pytest.mark.long)])
def test_a_killed_worker_costs_its_connections_and_nothing_else(tmp_path, num_kills):
    settings = make_world(tmp_path)
    with redis_server() as port:
        url = f"redis://127.0.0.1:{port}/0"
        fill_redis(settings, url)
        with served(settings, 2, VITRINE_REDIS_URL=url, VITRINE_LOG_LEVEL="ERROR") as server:
            until(lambda: all(listens(child, server.port) for child in children(server)), SECONDS)
            posters = [Poster(server.url, f"poster{i}") for i in range(2)]
            with Readers(server.url, 2, keep_alive=False) as readers, Readers(server.url, 1) as loyal:
                for poster in posters:
                    poster.start()
                time.sleep(EARLY_SECONDS)  # the other is then known to work, however often its twin dies
                for _ in range(num_kills):
                    victim = max(children(server))
                    killed_at = time.monotonic()
                    os.kill(victim, signal.SIGKILL)
                    readers.wait_for(3)
                    until(lambda: len(now := children(server)) == 2 and victim not in now, SECONDS)  # noqa: B023
                    assert any(reply.status == 200 for reply in readers.since(killed_at))
                    until(lambda: all(listens(child, server.port) for child in children(server)), SECONDS)
                    clocks = [httpx.get(f"{server.url}/readyz", timeout=30).json()["now"] for _ in range(8)]
                    assert clocks == sorted(clocks)  # whoever answers
                readers.wait_for(10)
                for poster in posters:
                    poster.is_over.set()
                    poster.join(60)
            clients = [readers, loyal]
            num_broken = sum(reply.status == 0 for client in clients for reply in client.replies)
            # A connection of the dead one breaks under its request; kept ones once more, at the next.
            assert num_broken + sum(poster.num_broken for poster in posters) <= 6 * num_kills
            for client in clients:
                check_replies(client.replies, most_broken=num_broken)
            assert check_journal(settings, posters) > 10 * num_kills
