"""Two server processes on one workspace agree: what is written at one is seen at the other within five seconds."""

import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

from feature_repo.stores.embedded import stop_redis
from serving.client import VitrineClient
from serving.entity_schemas import PostIn, UserIn
from serving.snapshot import save_snapshot
from tests.serving_fakes import AS_OF, make_settings, make_snapshot

WITHIN_SECONDS = 5.0


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    settings = make_settings(tmp_path_factory.mktemp("workers"))
    save_snapshot(settings.workspace, make_snapshot())
    started = [start(settings) for _ in range(2)]
    clients = [VitrineClient(url, timeout_seconds=30) for _, url in started]
    for process, url in started:
        wait(process, url)
    yield clients
    for client in clients:
        client.close()
    for process, _ in started:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, -signal.SIGTERM)
    stop_redis(settings.workspace)


def start(settings):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"VITRINE_VAR_DIR": str(settings.var_dir), "VITRINE_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "serving", "serve", "--port", str(port)],
        env={**os.environ, **variables}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return process, f"http://127.0.0.1:{port}"


def wait(process, url):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/healthz").status_code == 200:
                return
        except httpx.TransportError:
            assert process.poll() is None, "the server ended"
            time.sleep(0.1)
    raise AssertionError("the server did not start")


def eventually(condition):
    """Whether the condition holds within the promised time."""
    deadline = time.monotonic() + WITHIN_SECONDS
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def ids(posts):
    return [post.post_id for post in posts]


def test_a_new_post_is_in_the_others_feed_and_leaves_it_again(workers):
    one, other = workers
    assert "fresh-1" not in ids(other.feed("1", limit=100).posts)
    one.put_post("fresh-1", PostIn(creator_id="c-new", media_type="video", language="en"))
    assert eventually(lambda: "fresh-1" in ids(other.feed("1", limit=100).posts))
    first = other.feed("1", limit=5)
    planned = ids(other.feed("1", limit=20, cursor=first.next_cursor).posts)
    one.delete_post(planned[0])
    one.delete_post("fresh-1")
    assert eventually(lambda: planned[0] not in ids(other.feed("1", limit=20, cursor=first.next_cursor).posts))
    assert eventually(lambda: "fresh-1" not in ids(other.feed("1", limit=100).posts))


def test_wishes_and_users_count_at_the_other_at_once(workers):
    one, other = workers
    target = other.feed("2", limit=1).posts[0]
    one.put_hide("2", target.post_id)
    assert target.post_id not in ids(other.feed("2", limit=100).posts)
    assert target.post_id in [hide.post_id for hide in other.hides("2")]
    one.put_user("new-user", UserIn(language="en"))
    assert other.read_user("new-user").language == "en"
    assert eventually(lambda: {p.language for p in other.feed("new-user", limit=20).posts} == {"en"})
    one.delete_user("new-user")
    assert eventually(lambda: {p.language for p in other.feed("new-user", limit=20).posts} != {"en"})


def test_engagements_at_one_trend_at_the_other(workers):
    one, other = workers
    page = one.feed("4", limit=50)
    first = other.trending(limit=1).posts[0].post_id
    entry = next(p for p in page.posts if p.post_id != first)
    one.send([one.engagement(page, entry, "share") for _ in range(20)])
    assert eventually(lambda: ids(other.trending(limit=1).posts) == [entry.post_id])


def test_an_event_about_a_post_that_the_other_just_took_is_accepted(workers):
    one, other = workers
    one.put_post("fresh-2", PostIn(creator_id="c-new", media_type="text", created_at=AS_OF))
    assert other.send([other.impression(other.feed("5"), other.feed("5").posts[0])]).accepted == 1
    page = other.feed("5", limit=1)
    like = other.engagement(page, page.posts[0], "like").model_copy(update={"post_id": "fresh-2", "request_id": None})
    assert other.send([like]).accepted == 1
