"""A newer snapshot takes over while requests run: nothing is lost, repeated or served from rows of the other one."""

import gc
import itertools
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from weakref import ref

import numpy as np
import pytest

from core.clock import FrozenClock
from core.ids import internal_id
from core.schema import CONTENT_DIM
from events.served import ServedLog
from models.ann import load_index, write_index
from serving.app import entity_store
from serving.bootstrap import build_runtime
from serving.entity_schemas import PostIn, UserIn
from serving.funnel.request import FeedRequest
from serving.reload import Reloader
from serving.schemas import EventIn
from serving.snapshot import load_snapshot, save_snapshot
from serving.vector_search import IndexSearch
from tests.grown_snapshots import grown_snapshot
from tests.serving_fakes import AS_OF, FakeReader, make_parts, make_settings, make_snapshot, make_spec
from tests.waiting import soon

MAPS = Path("/proc/self/maps")
SPEC = make_spec(rerank={"slate_size": 60})


class Platform:
    """A live runtime over a snapshot on disk, and newer ones that a test saves as the command would."""

    def __init__(self, folder, monkeypatch):
        self.settings = make_settings(folder)
        self.workspace = self.settings.workspace
        save_snapshot(self.workspace, make_snapshot())
        self.search = None
        monkeypatch.setattr("serving.bootstrap.load_parts", lambda _, catalogue, *__: self.parts(catalogue))
        reader = FakeReader(make_snapshot().catalogue)
        self.runtime = build_runtime(
            self.settings, SPEC, reader=reader, clock=FrozenClock(AS_OF), is_patient=True, is_live=True
        )
        self.reloader = Reloader(self.runtime)
        self.served = ServedLog(self.workspace.served)
        ids = itertools.count(1)
        self.feed = self.runtime.open_feed(self.served, lambda: next(ids))
        self.intake = self.runtime.open_intake(self.served)

    def parts(self, catalogue):
        parts = make_parts(SimpleNamespace(catalogue=catalogue))
        return parts if self.search is None else self.search(parts, catalogue)

    def exchange(self, number, place=None):
        place = self.runtime.journal.last_place() if place is None else place
        save_snapshot(self.workspace, grown_snapshot(number, place))
        return self.reloader.reload()

    def page(self, cursor=None, user_id=1, limit=20):
        page = self.feed.page(FeedRequest(user_id, self.runtime.clock.now(), limit=limit), cursor)
        rows = [entry.post.row for entry in page.posts]
        # Each row is that post's in the catalogue that the page names.
        assert page.snapshot.catalogue.post_ids[rows].tolist() == ids(page)
        assert page.snapshot.catalogue.creator_ids[rows].tolist() == [entry.post.creator_id for entry in page.posts]
        return page

    def see(self, post_ids, user_id=1):
        events = [
            EventIn(event_id=f"i{user_id}-{p}", kind="impression", user_id=str(user_id), post_id=str(p))
            for p in post_ids
        ]
        assert self.intake.post([event.model_dump() for event in events]).accepted == len(events)

    def close(self):
        self.feed.close()
        self.served.close()
        self.runtime.close()


def ids(page):
    return [entry.post.post_id for entry in page.posts]


@pytest.fixture
def platform(tmp_path, monkeypatch):
    platform = Platform(tmp_path, monkeypatch)
    yield platform
    platform.close()


def test_a_visit_goes_on_over_the_newer_snapshot_as_it_was_ranked(platform):
    first = platform.page()
    planned = ids(platform.page(first.next_cursor))
    assert platform.exchange(2)
    assert platform.runtime.snapshot.snapshot_id == "snapshot-2"
    second = platform.page(first.next_cursor)
    assert second.snapshot is platform.runtime.snapshot
    assert ids(second) == planned
    shown, cursor = ids(first) + ids(second), second.next_cursor
    for _ in range(8):
        page = platform.page(cursor)
        shown, cursor = shown + ids(page), page.next_cursor
    assert len(set(shown)) == len(shown) == 200


def test_a_post_that_the_newer_snapshot_lacks_leaves_open_visits(platform):
    platform.exchange(2)
    rare = set(platform.runtime.snapshot.catalogue.base.post_ids.tolist()) - set(make_snapshot().catalogue.post_ids)
    first, shown = platform.page(limit=1), set()
    platform.page(first.next_cursor)  # puts in order what follows
    visit = next(iter(platform.feed._visits._visits.values()))
    held = set(visit.held_post_ids()) & rare
    assert held
    save_snapshot(platform.workspace, make_snapshot())
    assert platform.reloader.reload()
    cursor = first.next_cursor
    for _ in range(6):
        page = platform.page(cursor)
        shown, cursor = shown | set(ids(page)), page.next_cursor
    assert not shown & rare


def test_what_was_seen_before_and_after_the_snapshot_was_built_stays_seen(platform):
    before = ids(platform.page())
    platform.see(before)
    place = platform.runtime.journal.last_place()
    later = ids(platform.page())
    assert not set(before) & set(later)
    platform.see(later)
    platform.exchange(2, place)
    assert not set(before + later) & set(ids(platform.page(limit=100)))


def test_writes_behind_the_snapshot_count_and_deletions_from_before_it_hold(platform):
    runtime, store = platform.runtime, entity_store(platform.runtime)
    store.delete("post", "401")
    store.delete("user", "5")
    place = runtime.journal.last_place()
    content = [1.0] + [0.0] * (CONTENT_DIM - 1)
    store.put("post", "fresh", PostIn(creator_id="c", media_type="video", content_embedding=content))
    store.put("user", "ann", UserIn(language="fr"))
    platform.exchange(2, place)
    catalogue = runtime.snapshot.catalogue
    assert not catalogue.is_recommendable[catalogue.rows_of(np.array([401]))[0]]
    assert runtime.snapshot.users.row_of(5) == -1
    newer = entity_store(runtime)
    assert newer.read("post", "fresh")["creator_external_id"] == "c"
    assert newer.read("user", "ann")["language"] == "fr"
    assert len(runtime.parts.search) == 1  # its vector lies beside the newer rows too
    # Who still holds the store of before writes into what serves.
    store.put("post", "fresh-2", PostIn(creator_id="c", media_type="video", content_embedding=content))
    assert len(runtime.parts.search) == 2


def test_posts_that_an_older_index_lacks_get_vectors_beside_it(platform, tmp_path):
    old = make_snapshot().catalogue
    manifest = write_index(tmp_path / "i", old.post_ids, old.content, "tower-1", datetime(2026, 1, 1, tzinfo=UTC))

    def indexed(parts, catalogue):
        index = load_index(tmp_path / "i" / manifest.index_id, "tower-1")
        return replace(parts, search=IndexSearch(index, catalogue), reader=FakeReader(catalogue.base))

    platform.search = indexed
    platform.exchange(2)
    base = platform.runtime.snapshot.base.catalogue
    lacking = np.flatnonzero(~np.isin(base.post_ids, old.post_ids) & base.is_recommendable)
    assert len(lacking) > 50
    assert sorted(platform.runtime.parts.search._parts.rows.tolist()) == lacking.tolist()


def test_a_broken_snapshot_is_refused_and_the_old_one_goes_on_until_it_is_mended(platform):
    folder = save_snapshot(platform.workspace, grown_snapshot(2))
    array = folder / "post.creator_ids.npy"
    whole = array.read_bytes()
    array.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    assert not platform.reloader.reload()
    assert "post.creator_ids.npy" in platform.runtime.funnels.snapshot_refused
    assert platform.runtime.snapshot.snapshot_id == "snapshot-1"
    assert len(platform.page().posts) == 20
    assert platform.exchange(2)
    assert platform.runtime.funnels.snapshot_refused is None
    assert platform.page().snapshot.snapshot_id == "snapshot-2"


def test_a_snapshot_that_nothing_can_be_built_over_is_refused(platform, monkeypatch):
    monkeypatch.setattr(platform.runtime.__class__, "warm_up", lambda *_: np.arange(3)[9])
    assert not platform.exchange(2)
    assert "IndexError" in platform.runtime.funnels.snapshot_refused
    monkeypatch.undo()
    assert platform.page().snapshot.snapshot_id == "snapshot-1"


def test_a_snapshot_waits_for_models_that_fit_its_rows(platform):
    platform.search = lambda parts, _: replace(
        parts, search=None, versions={"second_stage": "model-0"}, problems={"index": "altered"}
    )
    assert not platform.exchange(2)
    assert "index" in platform.runtime.funnels.snapshot_refused
    assert platform.runtime.funnels.models_refused == ("index",)
    # The same models as those that serve stand in: then only the newest index is missed.
    versions = dict(platform.runtime.parts.versions)
    platform.search = lambda parts, _: replace(parts, versions=versions, problems={"index": "altered"})
    assert platform.exchange(3)
    platform.search = lambda parts, _: replace(parts, versions={}, problems={"second_stage": "altered"})
    assert not platform.exchange(4)
    platform.search = None  # published again
    pointer = platform.workspace.bundles / "second_stage" / "champion.json"
    pointer.parent.mkdir(parents=True)
    pointer.write_text('{"bundle_id": "model-2"}')
    assert platform.reloader.reload()
    assert platform.runtime.snapshot.snapshot_id == "snapshot-4"
    assert platform.runtime.funnels.snapshot_refused is None


def test_memory_of_the_old_snapshot_is_released_at_once(platform):
    page = platform.page()
    platform.page(page.next_cursor)
    platform.page(user_id=2)
    assert {visit.num_behind > 0 for visit in platform.feed.visits._visits.values()} == {True, False}
    platform.runtime.live.tail.start()
    gone = [ref(platform.runtime.snapshot), ref(platform.runtime.live.view), ref(platform.runtime.parts)]
    folder = str(platform.workspace.snapshot / platform.runtime.snapshot.snapshot_id)
    assert folder in MAPS.read_text()
    gc.disable()  # a server's collector leaves alone what was loaded at its start: nothing may hang in a cycle
    try:
        assert platform.exchange(2)
        platform.page(page.next_cursor)
        del page
        platform.feed.explanations.flush()
        # The thread that writes explanations lets go of the last page a moment after it is written.
        assert soon(lambda: [found() for found in gone] == [None, None, None], 2)
        assert soon(lambda: folder not in MAPS.read_text(), 2)
    finally:
        gc.enable()
    assert platform.runtime.live.tail.is_running


def test_saving_a_snapshot_again_leaves_the_mapped_one_whole(platform):
    mapped = load_snapshot(platform.workspace)
    save_snapshot(platform.workspace, make_snapshot())
    np.testing.assert_array_equal(mapped.catalogue.content, make_snapshot().catalogue.content)
    assert not platform.reloader.reload()  # it is what serves
    for number in (2, 3):
        save_snapshot(platform.workspace, grown_snapshot(number))
    folders = sorted(path.name for path in platform.workspace.snapshot.iterdir() if path.is_dir())
    assert folders == ["snapshot-2", "snapshot-3"]


def test_under_load_no_request_fails_and_no_acknowledged_write_is_missed(platform):
    platform.runtime.live.tail.start()
    failures, is_over = [], threading.Event()

    def scroll(user_id):
        cursor = None
        for number in itertools.count():
            if is_over.is_set():
                return
            try:
                page = platform.page(cursor, user_id=user_id)
                assert len(page.posts) == 20
                cursor = page.next_cursor if number % 6 else None  # before there is nothing left to see
            except Exception as error:
                failures.append(repr(error))
                return

    def write(number=0):
        while not is_over.is_set():
            try:
                number += 1
                store = entity_store(platform.runtime)
                post = int(platform.page(user_id=4, limit=1).posts[0].post.post_id)
                store.wish("hide", "4", str(post))
                assert post not in ids(platform.page(user_id=4, limit=40))
                store.put("post", f"new-{number}", PostIn(creator_id="c", media_type="text"))
                row = platform.runtime.snapshot.catalogue.rows_of(np.array([internal_id(f"new-{number}")]))[0]
                assert row >= 0
                entity_store(platform.runtime).delete("post", f"new-{number}")
            except Exception as error:
                failures.append(repr(error))
                return

    threads = [threading.Thread(target=scroll, args=(user,)) for user in (1, 2)] + [threading.Thread(target=write)]
    for thread in threads:
        thread.start()
    for number in range(2, 7):
        time.sleep(0.1)
        assert platform.exchange(number), platform.runtime.funnels.snapshot_refused
    is_over.set()
    for thread in threads:
        thread.join(20)
    assert failures == []
    assert platform.runtime.live.degraded == ()
