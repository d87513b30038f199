"""The parts of the live view: room in the catalogue, trending sums, the delta beside an index."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from core.schema import CONTENT_DIM
from events.journal import JournalEvent
from feature_repo.columns import null_columns
from models.ann import load_index, write_index
from models.bundle import RetrievalBundle
from models.features import Feature, FeatureSpec
from models.towers import TowerConfig, TwoTower
from serving.entity_schemas import PostIn
from serving.entity_store import EntityStore
from serving.funnel.eligibility import REASONS, Eligibility
from serving.funnel.eligible import EligiblePosts, SharedCodes
from serving.funnel.first_stage import VectorRanker
from serving.funnel.state import Controls
from serving.live.catalogue import LiveCatalogue
from serving.live.search import LiveSearch
from serving.live.trending import HALF_LIFE_SECONDS, LiveLists, Trending
from serving.live.view import LiveSnapshot
from serving.snapshot import UNKNOWN, load_snapshot, save_snapshot
from serving.spec_ranking import EligibilitySpec
from serving.vector_search import IndexSearch
from tests.serving_fakes import AS_OF, FakeTower, make_catalogue, make_parts, make_runtime, make_settings, make_snapshot

NONE = np.empty(0, dtype=np.int64)
POST = {
    "external_id": "p", "creator_id": 7, "creator_external_id": "c7", "created_at": AS_OF.isoformat(),
    "media_type": "video", "language": "en", "country": "US", "topic_id": 3, "duration_seconds": None,
    "integrity_score": 1.0, "is_recommendable": True, "content_codes": [], "content_embedding": None,
}  # fmt: skip


@pytest.fixture
def catalogue():
    return LiveCatalogue(make_catalogue(), room=50)


def test_rows_stay_while_posts_come_and_change(catalogue):
    row = catalogue.write(1_000_000, POST)
    assert row == 600
    assert catalogue.rows_of(np.array([1, 1_000_000, 2])).tolist() == [0, 600, UNKNOWN]
    catalogue.write(21, POST | {"external_id": "21"})
    catalogue.settle()
    assert catalogue.rows_of(np.array([21])).tolist() == [10]
    assert set(catalogue.newest_rows.tolist()) == {600, 10}
    assert {600, 10} <= set(catalogue.creator_rows(7).tolist())
    old = int(make_catalogue().creator_ids[10])
    assert 10 not in catalogue.creator_rows(old).tolist()
    assert 10 not in catalogue.by_age
    assert np.all(np.diff(catalogue.created_at[catalogue.creator_rows(7)]) <= 0)
    for known in (catalogue, make_catalogue()):
        rows, owners = known.rows_by_creators(np.array([old, 10**9, 7]))
        assert [rows[owners == place].tolist() for place in range(3)] == [
            known.creator_rows(creator).tolist() for creator in (old, 10**9, 7)
        ]
        assert np.all(np.diff(owners) >= 0)
    catalogue.remove(600)
    catalogue.settle()
    assert catalogue.newest_rows.tolist() == [10]


def test_cached_eligibility_follows_writes_and_nothing_else_changes(catalogue):
    eligibility, fresh = Eligibility(EligibilitySpec(), catalogue), lambda: Eligibility(EligibilitySpec(), catalogue)
    english = catalogue.language_code("en")
    at = AS_OF.timestamp()
    before = eligibility.general(english, UNKNOWN, at)
    assert np.all(before[600:] != 0)
    catalogue.write(1_000_000, POST)
    catalogue.write(1_000_001, POST | {"language": "fr"})
    catalogue.remove(40)
    after = eligibility.general(english, UNKNOWN, at)
    np.testing.assert_array_equal(after, fresh().general(english, UNKNOWN, at))
    assert (after[600], after[601] != 0, after[40] != 0) == (0, True, True)
    assert np.flatnonzero(before != after).tolist() in ([40, 600, 601], [600, 601])
    assert before[600] != 0  # whoever holds the old codes keeps them


def test_what_requests_share_is_one_object_until_a_post_is_written(catalogue):
    eligibility = Eligibility(EligibilitySpec(), catalogue)

    def shared():
        return eligibility.judge(1, UNKNOWN, Controls(NONE, NONE), NONE, AS_OF.timestamp()).eligible.shared

    first = shared()
    assert shared() is first
    catalogue.write(1_000_000, POST)
    second = shared()
    assert second is not first
    assert shared() is second


def test_a_muted_topic_covers_what_is_written_later_and_nothing_that_left_it(catalogue):
    eligibility = Eligibility(EligibilitySpec(), catalogue)
    muting = Controls(NONE, NONE, muted_topic_ids=frozenset({3}))

    def muted():
        codes = eligibility.judge(UNKNOWN, UNKNOWN, muting, NONE, AS_OF.timestamp()).codes
        return set(np.flatnonzero(codes == REASONS.index("muted_topic")).tolist())

    before = muted()
    left = min(before)
    catalogue.write(1_000_000, POST)
    catalogue.write(int(catalogue.post_ids[left]), POST | {"topic_id": 5})
    assert muted() == before - {left} | {600}


def test_a_ranker_over_a_file_takes_vectors_behind_its_end(catalogue):
    file = catalogue.base.content.copy()
    ranker = VectorRanker(FakeTower(), file, np.arange(650) < 600)
    fresh = np.ones((3, CONTENT_DIM), dtype=np.float32)
    ranker.put(np.array([20, 600, 640]), fresh)
    state = SimpleNamespace(user={})
    scores = ranker.scores(state, np.array([640, 20, 21, 600]))
    of_fresh, held = float(fresh[0] @ FakeTower().vector), float(file[21] @ FakeTower().vector)
    np.testing.assert_allclose(scores, [of_fresh, of_fresh, held, of_fresh], rtol=1e-5)
    np.testing.assert_allclose(
        ranker.scores(state, np.array([610, 21, 640])), np.array([(held + of_fresh) / 2, held, of_fresh]), rtol=1e-5
    )


def test_saved_arrays_have_their_room_in_the_file_and_writes_stay_private(tmp_path):
    workspace = make_settings(tmp_path).workspace
    save_snapshot(workspace, make_snapshot())
    loaded = load_snapshot(workspace)
    live = LiveSnapshot(loaded)
    assert np.shares_memory(live.catalogue.content, loaded.catalogue.content)
    live.live_catalogue.write(1_000_000, POST)
    live.live_catalogue.write(1, POST)
    again = load_snapshot(workspace).catalogue
    np.testing.assert_array_equal(again.creator_ids, make_catalogue().creator_ids)
    assert len(again) == 600


def test_trending_is_the_decayed_sum_of_weights():
    catalogue, snapshot = make_catalogue(), make_snapshot()
    trending = Trending(LiveLists(snapshot.lists), AS_OF.timestamp())
    rng = np.random.default_rng(4)
    events = [(int(rng.integers(50, 90)), float(rng.uniform(-1, 5)), AS_OF.timestamp() + float(rng.uniform(0, 9e4)))
              for _ in range(400)]  # fmt: skip
    for event in events:
        trending.add(*event)
    now = AS_OF.timestamp() + 1e5
    everywhere, by_language = trending.lists(catalogue, now)
    expected = dict.fromkeys(range(600), 0.0)
    lists = snapshot.lists
    for ragged in (lists.trending, lists.trending_by_language):
        for row, weight in zip(ragged.values.tolist(), ragged.weights.tolist(), strict=True):
            expected[row] = max(expected[row], weight * 0.5 ** (1e5 / HALF_LIFE_SECONDS))
    for row, weight, at in events:
        expected[row] += max(weight, 0.0) * 0.5 ** ((now - at) / HALF_LIFE_SECONDS)
    found = dict(zip(everywhere.values.tolist(), everywhere.weights.tolist(), strict=True))
    assert found == pytest.approx({r: v for r, v in expected.items() if v and catalogue.is_recommendable[r]}, rel=1e-5)
    assert np.all(np.diff(everywhere.weights) <= 0)
    for code in range(3):
        assert set(catalogue.language_codes[by_language.list_of(code)].tolist()) <= {code}


def test_sums_survive_years():
    trending = Trending(make_snapshot().lists, 0.0)
    trending.add(5, 1.0, 3e9)
    trending.add(6, 2.0, 3e9)
    everywhere, _ = trending.lists(make_catalogue(), 3e9)
    assert everywhere.values[:2].tolist() == [6, 5]
    assert everywhere.weights[:2].tolist() == pytest.approx([2.0, 1.0])


@pytest.fixture(params=[False, True], ids=["flat", "inverted"])
def world(request, tmp_path):
    """A live catalogue, 600 indexed vectors, and 40 rows of new or changed posts with theirs."""
    rng = np.random.default_rng(6)
    catalogue = LiveCatalogue(make_catalogue(), room=50)
    vectors = rng.standard_normal((600, 16)).astype(np.float32)
    below = 100 if request.param else 10_000
    manifest = write_index(tmp_path, catalogue.base.post_ids, vectors, "b", datetime(2026, 1, 1, tzinfo=UTC), below)
    rows = [catalogue.write(1_000_000 + i, POST) for i in range(30)]
    rows += [catalogue.write(2 * i + 1, POST) for i in range(20, 30)]
    fresh = rng.standard_normal((40, 16)).astype(np.float32)
    by_row = np.zeros((650, 16), dtype=np.float32)
    by_row[:600] = vectors
    by_row[rows] = fresh
    search = LiveSearch(IndexSearch(load_index(tmp_path / manifest.index_id, "b"), catalogue), merge_at=10_000)
    return search, np.array(rows), fresh, by_row, rng


def check(search, by_row, num_rows, rng):
    for share in (1.0, 0.3):
        query = rng.standard_normal(16).astype(np.float32)
        eligible = np.zeros(650, dtype=np.bool_)
        eligible[:num_rows] = rng.random(num_rows) < share
        shared = SharedCodes((~eligible).astype(np.uint8))
        barred = np.flatnonzero(eligible)[::40]
        eligible[barred] = False
        rows, scores = search.search(query, 15, EligiblePosts(shared, barred))
        exact = np.where(eligible, by_row @ query, -np.inf)
        assert np.all(eligible[rows])
        assert len(set(rows.tolist())) == 15
        np.testing.assert_allclose(scores, exact[rows], atol=0.05)
        assert set(np.argsort(-exact)[:5].tolist()) <= set(rows.tolist())


def test_new_vectors_are_found_beside_the_index_and_within_it(world):
    search, rows, fresh, by_row, rng = world
    search.put(rows, fresh)
    assert len(search) == 40
    check(search, by_row, 630, rng)
    search._merge_at = 40
    search.put(rows[:1], fresh[:1])
    search.wait()
    assert len(search) == 0
    check(search, by_row, 630, rng)


def test_a_vector_written_during_a_merge_stays_beside_the_index(world):
    search, rows, fresh, by_row, rng = world
    search.put(rows, fresh)
    parts = search._parts

    class Slow:
        def merged(self, merged_rows, vectors):
            newer = -vectors[:2]
            by_row[merged_rows[:2]] = newer
            search.put(merged_rows[:2], newer)
            return parts.main.merged(merged_rows, vectors)

    search._parts = replace_main(parts, Slow())
    search._merge()
    assert len(search) == 2
    check(search, by_row, 630, rng)


def replace_main(parts, main):
    return parts._replace(main=main)


def test_a_merge_that_fails_leaves_the_search_as_it_was(world):
    search, rows, fresh, by_row, rng = world
    search.put(rows, fresh)
    parts = search._parts

    class Broken:
        def merged(self, merged_rows, vectors):
            raise MemoryError("no room")

    search._parts = replace_main(parts, Broken())
    search._merge()
    assert len(search) == 40
    search._parts = replace_main(search._parts, parts.main)
    check(search, by_row, 630, rng)


def test_a_snapshot_knows_up_to_where_it_holds_the_journal(tmp_path):
    snapshot = replace(make_snapshot(), journal_place=7)
    workspace = make_settings(tmp_path).workspace
    save_snapshot(workspace, snapshot)
    assert load_snapshot(workspace).journal_place == 7


class Empty:
    """An index without posts."""

    def search(self, vector_D, k, eligible):
        return np.empty(0, dtype=np.int64), np.empty(0)


def real_bundle():
    """A retrieval bundle of the real towers over real views, with random weights."""
    spec = FeatureSpec((
        Feature("user_history__content_centroid", "user", "embedding", dim=CONTENT_DIM),
        Feature("post_profile__content_embedding", "post", "embedding", dim=CONTENT_DIM),
        Feature("post_profile__topic_id", "post", "categorical", table="topic", num_rows=16, dim=4),
        Feature("post_activity__num_impressions_24h", "post", "numeric", "log1p"),
        Feature("creator_activity__num_impressions_24h", "post", "numeric", "log1p"),
    ))  # fmt: skip
    torch.manual_seed(3)
    module = TwoTower(spec, TowerConfig(dim=8, hidden=(16,)), 1, is_training=False)
    return RetrievalBundle("b", spec, {}, module.requires_grad_(False).eval())


@pytest.mark.parametrize("is_store_down", [False, True])
def test_a_new_post_gets_the_bundles_vector_of_its_content_and_null_counters(tmp_path, is_store_down):
    bundle = real_bundle()
    parts = make_parts(make_snapshot())
    parts.reader.is_down = is_store_down
    names = frozenset(bundle.spec.columns("post")) | frozenset(bundle.spec.columns("user"))
    runtime = make_runtime(
        tmp_path, parts=replace(parts, tower=bundle, search=Empty(), first_stage=None, feature_names=names)
    )
    search = runtime.parts.search
    content = np.zeros(CONTENT_DIM)
    content[4] = 1.0
    post = PostIn(creator_id="c", media_type="text", topic_id=5, content_embedding=content.tolist())
    EntityStore(runtime.live.view, runtime.journal, runtime.clock).put("post", "new", post)
    columns = null_columns(bundle.spec.columns("post"), 1)
    columns["post_profile__content_embedding"][0] = content
    columns["post_profile__topic_id"][0] = 5
    assert search._parts.rows.tolist() == [600]
    np.testing.assert_allclose(search._parts.vectors, bundle.post_vectors(columns), rtol=1e-6)
    runtime.close()


def test_a_listener_that_fails_stops_neither_writes_nor_deletions(tmp_path):
    runtime = make_runtime(tmp_path)
    view = runtime.live.view

    def fail(rows):
        raise MemoryError("no room")

    view.on_posts(fail)
    EntityStore(view, runtime.journal, runtime.clock).delete("post", "401")
    assert not runtime.snapshot.catalogue.is_recommendable[200]
    assert runtime.live.degraded == ("live_catalogue",)
    assert view.catch_up() == 0
    runtime.close()


def test_a_clock_set_far_ahead_and_back_leaves_no_mark_on_trending(tmp_path):
    runtime = make_runtime(tmp_path)
    clock, view, lists = runtime.clock, runtime.live.view, runtime.snapshot.lists

    def liked(post_id, days, times):
        clock.at = AS_OF + timedelta(days=days)
        events = [
            JournalEvent(f"{post_id}-{days}-{n}", "like", 1, clock.at, clock.at, post_id=post_id) for n in range(times)
        ]
        runtime.journal.append(events)
        view.catch_up()
        rows = lists.trending.list_of(0)
        return runtime.snapshot.catalogue.post_ids[rows].tolist()

    assert liked(101, 0, 30)[0] == 101
    assert liked(201, 365, 1)[0] == 201
    assert liked(301, 0, 20)[:2] == [101, 301]
    assert np.isfinite(lists.trending.weights_of(0)).all()
    assert liked(401, -365, 40)[0] == 101  # nothing of then weighs anything now
    assert np.isfinite(lists.trending.weights_of(0)).all()
    assert liked(501, 0.01, 50)[0] == 501
    runtime.close()
