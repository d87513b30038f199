"""DELETE of a user over REST: within five seconds no store of the server holds anything under that id."""

import itertools
import sqlite3
import time
from contextlib import closing
from datetime import timedelta

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest

from core.ids import internal_id
from events.journal import JournalEvent
from events.served import ServedLog
from serving.erasure import open_erasure
from serving.feature_log_files import read_feature_log
from serving.funnel.request import FeedRequest
from serving.precompute import precompute
from serving.precomputed import PrecomputedSlates
from tests.serving_fakes import AS_OF, make_runtime, make_spec
from tests.serving_server import running

WITHIN_SECONDS = 5.0
NAMES = ("someone-who-leaves", "someone-who-stays", "somebody-else")
GONE, KEPT, OTHER = (internal_id(name) for name in NAMES)
SPEC = make_spec(eligibility={"min_pool": 5}, rerank={"slate_size": 40})
ID = 9_000


@pytest.fixture
def runtime(tmp_path):
    return make_runtime(tmp_path, SPEC, is_feature_log=True, feature_log_share=1.0)


def rows(path, table):
    """Users of the rows of a SQLite file."""
    with closing(sqlite3.connect(path)) as connection:
        return [user for (user,) in connection.execute(f"SELECT user_id FROM {table}")]


def raw(workspace):
    """Every byte of the files that keep ids as they are; those of the features are compressed."""
    files = [*workspace.root.glob("served.db*"), *workspace.root.glob("explanations.db*")]
    files += workspace.precomputed.rglob("*.npy")
    return b"".join(path.read_bytes() for path in files)


def held(workspace):
    """Where each user is found, in decoded rows and in bytes."""
    slates = [np.load(path) for path in workspace.precomputed.rglob("user_ids.npy")]
    features = [pq.read_table(path)["user_id"].to_pylist() for path in workspace.served_features.glob("*.parquet")]
    users = {
        "pages": rows(workspace.served, "pages"),
        "explanations": rows(workspace.explanations, "explanations"),
        "slates": [user for found in slates for user in found.tolist()],
        "features": [user for found in features for user in found],
    }
    everything = raw(workspace)
    found = {user: {name for name, ids in users.items() if user in ids} for user in (GONE, KEPT, OTHER)}
    for user, places in found.items():
        places |= {order for order in ("big", "little") if user.to_bytes(8, order) in everything}
    return found


EVERYWHERE = {"pages", "explanations", "slates", "features", "big", "little"}


def test_nothing_of_a_deleted_user_is_left_within_five_seconds(runtime):
    workspace = runtime.workspace
    with running(runtime) as url:
        pages = {}
        for name in NAMES:
            cursor = {}
            for _ in range(3):
                page = httpx.get(f"{url}/feed", params={"user_id": name, "limit": 10} | cursor).json()
                cursor = {"cursor": page["next_cursor"]}
                pages.setdefault(name, []).append(page["request_id"])
            event = {"event_id": name, "kind": "like", "user_id": name, "post_id": page["posts"][0]["post_id"]}
            assert httpx.post(f"{url}/events", json={"events": [event]}).json()["accepted"] == 1
        precompute(runtime, [GONE, KEPT, OTHER])
        deadline = time.monotonic() + 20
        while held(workspace) != dict.fromkeys((GONE, KEPT, OTHER), EVERYWHERE):
            assert time.monotonic() < deadline, held(workspace)
            runtime.feature_log.flush()
            time.sleep(0.1)
        num_kept = [
            rows(workspace.served, "pages").count(KEPT),
            rows(workspace.explanations, "explanations").count(KEPT),
        ]
        assert httpx.delete(f"{url}/users/{NAMES[0]}").status_code == 204
        began = time.monotonic()
        while held(workspace)[GONE]:
            assert time.monotonic() - began < WITHIN_SECONDS, held(workspace)
            time.sleep(0.05)
        assert held(workspace) == {GONE: set(), KEPT: EVERYWHERE, OTHER: EVERYWHERE}
        assert num_kept == [
            rows(workspace.served, "pages").count(KEPT), rows(workspace.explanations, "explanations").count(KEPT)
        ]  # fmt: skip
        for request_id in pages[NAMES[0]]:
            assert httpx.get(f"{url}/explain/{request_id}").status_code == 404
            assert httpx.get(f"{url}/requests/{request_id}").status_code == 404
        assert httpx.get(f"{url}/explain/{pages[NAMES[1]][0]}").status_code == 200


class Desk:
    """A feed with what erases from it, stepped by hand."""

    def __init__(self, runtime):
        self.runtime = runtime
        self.served = ServedLog(runtime.workspace.served)
        numbers = itertools.count(ID)
        self.feed = runtime.open_feed(self.served, lambda: next(numbers))
        self.erasure = open_erasure(runtime, self.served, self.feed)

    def page(self, user_id, **fields):
        return self.feed.page(FeedRequest(user_id, self.runtime.clock.now(), limit=10), **fields)

    def delete(self, user_id, number=0):
        at = self.runtime.clock.now()
        self.runtime.journal.append([JournalEvent(f"d{user_id}-{number}", "delete_user", user_id, at, at)])

    def close(self):
        self.feed.close()
        self.served.close()


@pytest.fixture
def desk(runtime, monkeypatch):
    monkeypatch.setattr("serving.erasure.SECOND_PASS_SECONDS", 0.0)
    desk = Desk(runtime)
    yield desk
    desk.close()
    runtime.close()


def test_memory_lets_go_of_visits_seen_posts_and_waiting_features(desk):
    view = desk.runtime.live.view
    for user in (GONE, KEPT):
        page = desk.page(user)
        post = page.posts[0].post.post_id
        seen = JournalEvent(f"i{user}", "impression", user, AS_OF, AS_OF, post_id=post, surface="explore")
        desk.runtime.journal.append([seen])
        desk.page(user)
    assert {kept[0].user_id for kept in desk.runtime.feature_log._waiting} == {GONE, KEPT}
    desk.delete(GONE)
    view.catch_up()
    desk.erasure.step()
    assert {visit.user_id for visit in desk.feed.visits._visits.values()} == {KEPT}
    assert set(desk.runtime.snapshot.seen._users) == {KEPT}
    assert {kept[0].user_id for kept in desk.runtime.feature_log._waiting} == {KEPT}
    desk.runtime.feature_log.flush()
    assert {kept[0].user_id for kept in read_feature_log(desk.runtime.workspace.served_features)} == {KEPT}
    controls = desk.runtime.funnel.controls.read(GONE, -1, AS_OF)
    assert not len(controls.seen_rows)
    assert not controls.recent


def test_what_a_stranger_of_the_same_id_is_served_later_stays(desk):
    desk.page(GONE)
    desk.delete(GONE)
    desk.erasure.step()
    assert rows(desk.runtime.workspace.served, "pages") == []
    desk.runtime.clock.at += timedelta(seconds=2)
    desk.page(GONE)
    desk.erasure.step()
    assert rows(desk.runtime.workspace.served, "pages") == [GONE]


def test_a_server_that_was_killed_before_it_was_done_goes_on_after_its_start(desk, monkeypatch):
    desk.page(GONE)
    desk.page(KEPT)
    desk.runtime.feature_log.flush()
    desk.delete(GONE)  # and nobody was there to see it
    again = open_erasure(desk.runtime, desk.served, desk.feed)
    again.step()
    assert rows(desk.runtime.workspace.served, "pages") == [KEPT]
    assert {kept[0].user_id for kept in read_feature_log(desk.runtime.workspace.served_features)} == {KEPT}
    calls = []
    done = open_erasure(desk.runtime, desk.served, desk.feed)
    monkeypatch.setattr(done, "_clear", lambda *given: calls.append(given))
    done.step()
    assert calls == []  # it is written down that this is done


def test_a_file_that_cannot_be_cleared_yet_is_tried_again(desk, monkeypatch):
    desk.page(GONE)
    desk.delete(GONE)
    whole = desk.erasure._files
    monkeypatch.setattr(desk.erasure, "_files", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        desk.erasure.step()
    monkeypatch.setattr(desk.erasure, "_files", whole)
    desk.erasure.step()
    assert not desk.erasure._due
    assert desk.erasure._marked() == desk.runtime.journal.last_place()


@pytest.mark.parametrize("gone", [[0], [2], [4], [0, 1], [1, 2, 3], [0, 1, 2, 3, 4]])
def test_slates_of_others_are_found_whoever_is_erased_beside_them(desk, gone):
    users = list(range(1, 6))
    precompute(desk.runtime, users)
    folder = desk.runtime.workspace.precomputed
    stored = PrecomputedSlates(folder, 60)
    before = {user: stored.find(user, "explore", AS_OF.timestamp()).post_ids.tolist() for user in users}
    for place in gone:
        desk.delete(users[place])
    desk.erasure.step()
    for place, user in enumerate(users):
        found = stored.find(user, "explore", AS_OF.timestamp())
        assert (found is None) == (place in gone)
        if found is not None:
            assert found.post_ids.tolist() == before[user]


def test_slates_are_not_made_for_a_deleted_user_not_even_while_they_are_deleted(desk, monkeypatch):
    desk.delete(1)
    rank = desk.runtime.funnel.rank

    def rank_and_delete(request):
        desk.delete(3)
        return rank(request)

    monkeypatch.setattr(desk.runtime.funnel, "rank", rank_and_delete)
    precompute(desk.runtime, [1, 2, 3])
    stored = PrecomputedSlates(desk.runtime.workspace.precomputed, 60)
    found = [stored.find(user, "explore", AS_OF.timestamp()) is not None for user in (1, 2, 3)]
    assert found == [False, True, False]
