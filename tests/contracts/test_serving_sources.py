"""Every source obeys one contract, and each brings what its name says."""

from dataclasses import replace

import numpy as np
import pytest

from serving.bootstrap import make_funnel
from serving.funnel.eligible import EligiblePosts, SharedCodes
from serving.funnel.request import FeedRequest
from serving.funnel.sources.history import HistorySource
from serving.funnel.sources.newest import FollowedSource, FreshSource
from serving.funnel.sources.ranked_lists import PopularSource, TrendingSource
from serving.funnel.sources.two_tower import TwoTowerSource
from serving.funnel.sources.uniform import RandomSource
from serving.metrics import Metrics
from serving.spec_sources import (
    FollowedSpec,
    FreshSpec,
    HistorySpec,
    PopularSpec,
    RandomSpec,
    TrendingSpec,
    TwoTowerSpec,
)
from tests.serving_fakes import AS_OF, COLD_USER, LANGUAGES, RARE_LANGUAGE, make_parts, make_snapshot, make_spec

SNAPSHOT = make_snapshot()
CATALOGUE = SNAPSHOT.catalogue


def make_source(name, quota):
    parts = make_parts(SNAPSHOT)
    match name:
        case "two_tower":
            return TwoTowerSource(TwoTowerSpec(kind=name, quota=quota), parts.tower, parts.search)
        case "history":
            return HistorySource(HistorySpec(kind=name, quota=quota), CATALOGUE, SNAPSHOT.lists.neighbours)
        case "trending":
            return TrendingSource(TrendingSpec(kind=name, quota=quota), SNAPSHOT.lists)
        case "popular_country" | "popular_language" | "popular_everyone":
            spec = PopularSpec(kind="popular", quota=quota, segment=name.removeprefix("popular_"))
            return PopularSource(spec, SNAPSHOT.lists)
        case "followed":
            return FollowedSource(FollowedSpec(kind=name, quota=quota, max_age_hours=480), CATALOGUE)
        case "fresh":
            return FreshSource(FreshSpec(kind=name, quota=quota, max_age_hours=240, max_impressions=100), CATALOGUE)
        case _:
            return RandomSource(RandomSpec(kind="random", quota=quota))


def state_of(user_id, **fields):
    funnel = make_funnel(make_spec(eligibility={"min_pool": 5}), SNAPSHOT, make_parts(SNAPSHOT), None, Metrics())
    return funnel._open(FeedRequest(user_id, AS_OF, **fields))


ALL = (
    "two_tower", "history", "trending", "popular_country", "popular_language", "popular_everyone", "followed",
    "fresh", "random",
)  # fmt: skip


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("user_id", [0, 1, 2, COLD_USER])
@pytest.mark.parametrize("quota", [1, 7, 5000])
def test_source_brings_distinct_eligible_posts_within_its_quota_best_first(name, user_id, quota):
    state = state_of(user_id)
    found = make_source(name, quota).find(state)
    assert found.rows.dtype == np.int64
    assert len(found.rows) == len(found.scores) <= quota
    assert len(np.unique(found.rows)) == len(found.rows)
    assert np.all((found.rows >= 0) & (found.rows < len(CATALOGUE)))
    assert np.all(state.eligibility[found.rows] == 0)
    assert np.all(state.eligibility[found.ineligible] != 0)
    assert np.all(np.isfinite(found.scores))
    assert np.all(np.diff(found.scores) <= 0)


@pytest.mark.parametrize("name", ALL)
def test_source_brings_something_to_a_user_with_a_past(name):
    assert len(make_source(name, 50).find(state_of(1)).rows)


@pytest.mark.parametrize("name", ALL)
def test_source_survives_a_catalogue_where_nothing_is_eligible(name):
    state = state_of(1)
    state.eligibility[:] = 1
    state.eligible = EligiblePosts(SharedCodes(state.eligibility), np.empty(0, dtype=np.int64))
    assert len(make_source(name, 50).find(state).rows) == 0


@pytest.mark.parametrize("name", ALL)
def test_sources_that_claim_to_need_no_features_work_without_them(name):
    source, state = make_source(name, 20), state_of(1)
    state.user = None
    if not source.needs_features:
        assert len(source.find(state).rows)


@pytest.mark.parametrize("name", ALL)
def test_source_leaves_the_request_as_it_was_and_answers_alike_again(name):
    state = state_of(1)
    eligibility, controls = state.eligibility.copy(), state.controls
    first = make_source(name, 20).find(state)
    assert np.array_equal(state.eligibility, eligibility)
    assert state.controls is controls
    assert state.degraded == []
    assert state.notes == []
    again = make_source(name, 20).find(state_of(1))
    assert first.rows.tolist() == again.rows.tolist()


def test_two_tower_fills_its_quota_in_a_rare_language():
    state = state_of(LANGUAGES.index(RARE_LANGUAGE))
    eligible = int((state.eligibility == 0).sum())
    found = make_source("two_tower", 1000).find(state)
    assert 0 < eligible < 60
    assert len(found.rows) == eligible


def test_history_scores_neighbours_by_seed_weight_and_age():
    state = state_of(1)
    catalogue = replace(CATALOGUE, integrity=np.ones(len(CATALOGUE), dtype=np.float32))
    spec = HistorySpec(kind="history", quota=5000, max_seeds=50)
    found = HistorySource(spec, catalogue, SNAPSHOT.lists.neighbours).find(state)
    seeds = catalogue.rows_of(state.user["user_history__history_post_ids"][0][:5])
    weights = [1.0, 2.0, 3.0, 4.0, 3.0]  # click, like, comment, share, save
    expected = {}
    for seed, weight in zip(seeds.tolist(), weights, strict=True):
        neighbours = SNAPSHOT.lists.neighbours
        for row, similarity in zip(
            neighbours.list_of(seed).tolist(), neighbours.weights_of(seed).tolist(), strict=True
        ):
            expected[row] = expected.get(row, 0.0) + weight * 0.5 ** (2 / 72) * similarity
    eligible = {row: score for row, score in expected.items() if state.eligibility[row] == 0}
    assert dict(zip(found.rows.tolist(), found.scores.tolist(), strict=True)) == pytest.approx(eligible)


def test_poor_seeds_are_dropped():
    state = state_of(1)
    seeds = CATALOGUE.rows_of(state.user["user_history__history_post_ids"][0][:5])
    for poor in (
        {"integrity": np.where(np.isin(np.arange(len(CATALOGUE)), seeds), 0.1, 1.0).astype(np.float32)},
        {"report_rate": np.where(np.isin(np.arange(len(CATALOGUE)), seeds), 0.5, 0.0).astype(np.float32)},
    ):
        source = HistorySource(
            HistorySpec(kind="history", quota=50), replace(CATALOGUE, **poor), SNAPSHOT.lists.neighbours
        )
        assert len(source.find(state).rows) == 0


def test_an_engagement_since_the_snapshot_is_a_seed_at_once():
    state = state_of(COLD_USER)
    assert len(make_source("history", 50).find(state).rows) == 0
    state.controls = replace(state.controls, recent=((250, "share", AS_OF.timestamp() - 1),))
    assert len(make_source("history", 50).find(state).rows) > 0


def test_followed_brings_only_posts_of_followed_creators():
    found = make_source("followed", 50).find(state_of(1))
    assert set(CATALOGUE.creator_ids[found.rows].tolist()) <= {7, 8}


def test_fresh_brings_only_young_posts_with_few_impressions():
    found = make_source("fresh", 500).find(state_of(1))
    assert np.all(CATALOGUE.num_impressions[found.rows] <= 100)
    assert np.all(AS_OF.timestamp() - CATALOGUE.created_at[found.rows] <= 240 * 3600)


def test_random_differs_between_requests_and_repeats_for_the_same_one():
    draw = lambda number: make_source("random", 30).find(state_of(1, request_id=number)).rows.tolist()  # noqa: E731
    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
