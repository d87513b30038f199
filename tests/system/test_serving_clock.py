"""The machine's wall clock is set forwards and back under a server while users scroll and events come in."""

import os
import shutil
import struct
import subprocess
import time
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest

from tests.event_posters import Poster, check_journal
from tests.feed_readers import Readers, check_replies
from tests.redis_servers import redis_server
from tests.served_world import fill_redis, make_world, served
from tests.serving_fakes import AS_OF

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Feast's imports
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler to make a clock that can be set"),
]

SECONDS = 30
SOURCE = Path(__file__).parents[1] / "jumping_clock.c"


class JumpingClock:
    """What time a process started under `variables` thinks it is."""

    def __init__(self, folder):
        self._file, library = folder / "clock", folder / "clock.so"
        self._file.write_bytes(bytes(4096))
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE], check=True)
        self.variables = {"LD_PRELOAD": str(library), "JUMPING_CLOCK": str(self._file)}
        self.set(timedelta())

    def set(self, ahead):
        """So far ahead of an hour after the end of the data."""
        self.now = AS_OF + timedelta(hours=1) + ahead
        with self._file.open("r+b") as file:
            file.write(struct.pack("q", int(self.now.timestamp() - time.time())))
            file.flush()
            os.fsync(file.fileno())


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The clock and a server that lives by it."""
    folder = tmp_path_factory.mktemp("clock")
    settings = make_world(folder)
    clock = JumpingClock(folder)
    with redis_server() as port:
        url = f"redis://127.0.0.1:{port}/0"
        fill_redis(settings, url)
        variables = {"VITRINE_REDIS_URL": url, "VITRINE_CLOCK": "wall", "VITRINE_LOG_LEVEL": "ERROR"}
        with served(settings, **variables, **clock.variables) as server:
            yield clock, server


def get(server, path, **params):
    return httpx.get(f"{server.url}{path}", params=params, timeout=30)


def eventually(is_so):
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_whole(server):
    return get(server, "/feed", user_id="1").json()["degraded"] == get(server, "/readyz").json()["degraded"] == []


def test_feeds_and_events_go_on_through_jumps_of_hours(world):
    clock, server = world
    eventually(lambda: is_whole(server))
    poster = Poster(server.url, "poster")
    with Readers(server.url) as readers:
        poster.start()
        for hours in (20, 0, -10, 0):
            clock.set(timedelta(hours=hours))
            readers.wait_for(15)
            now = datetime.fromisoformat(get(server, "/readyz").json()["now"])
            assert abs(now - clock.now) < timedelta(minutes=5)
        eventually(lambda: is_whole(server))
        poster.is_over.set()
        poster.join(60)
    check_replies(readers.replies)
    assert check_journal(server.settings, [poster]) > 20


def trending(server):
    return [post["post_id"] for post in get(server, "/trending").json()["posts"]]


def like(server, number, post_id):
    sent = {"event_id": f"like-{number}", "kind": "like", "user_id": "3", "post_id": post_id}
    assert httpx.post(f"{server.url}/events", json={"events": [sent]}, timeout=30).json()["accepted"] == 1


def test_a_year_ahead_and_back_leaves_nothing_behind(world):
    clock, server = world
    eventually(lambda: is_whole(server))
    first = get(server, "/feed", user_id="1", limit=5).json()
    # Fresher than anything in the snapshot, so that the order is only of what happens here.
    before, future, after = (post["post_id"] for post in get(server, "/feed", user_id="2").json()["posts"][:3])
    for number in range(40):
        like(server, number, before)
    eventually(lambda: trending(server)[0] == before)
    clock.set(timedelta(days=365))
    page = get(server, "/feed", user_id="1").json()
    assert (len(page["posts"]), page["degraded"]) == (20, [])
    late = get(server, "/feed", user_id="1", cursor=first["next_cursor"])
    assert late.status_code == 422
    assert "expired" in late.text
    for number in range(40, 45):
        like(server, number, future)
    eventually(lambda: trending(server)[0] == future)
    clock.set(timedelta())
    eventually(lambda: is_whole(server))
    assert get(server, "/feed", user_id="1", cursor=first["next_cursor"]).status_code == 200
    assert get(server, f"/explain/{first['request_id']}").status_code == 200
    for number in range(45, 65):
        like(server, number, after)
    eventually(lambda: trending(server)[:3] == [before, after, future])
