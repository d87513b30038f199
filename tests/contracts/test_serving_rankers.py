"""Every ranker obeys the contract of its stage, and the stages hold whatever a ranker answers."""

from dataclasses import replace

import numpy as np
import pytest

from core.errors import VitrineError
from core.schema import HEADS
from serving.bootstrap import make_funnel
from serving.funnel.candidates import best_first
from serving.funnel.first_stage import VectorRanker
from serving.funnel.request import FeedRequest
from serving.funnel.second_stage import ModelRanker
from serving.metrics import Metrics
from tests.serving_fakes import AS_OF, FakeTower, make_parts, make_snapshot, make_spec

SNAPSHOT = make_snapshot()
PARTS = make_parts(SNAPSHOT)
FUNNEL = make_funnel(make_spec(eligibility={"min_pool": 5}), SNAPSHOT, PARTS, None, Metrics())
ROWS = np.random.default_rng(3).permutation(len(SNAPSHOT.catalogue))[:150]


def light(has_vector):
    ranker = VectorRanker(FakeTower(), SNAPSHOT.catalogue.content, has_vector)
    return ranker.scores


EVERY, HALF = np.ones(len(SNAPSHOT.catalogue), dtype=np.bool_), np.arange(len(SNAPSHOT.catalogue)) % 2 == 0
RANKERS = {
    "vectors": light(EVERY),
    "vectors of half the posts": light(HALF),
    "model": ModelRanker(PARTS.second_stage, FUNNEL.features).probabilities,
}


def state_of(user_id=1):
    return FUNNEL._open(FeedRequest(user_id, AS_OF, request_id=9))


@pytest.fixture(params=RANKERS)
def rank(request):
    return RANKERS[request.param]


def test_one_finite_answer_per_post_in_the_order_of_the_posts(rank):
    answers = rank(state_of(), ROWS)
    assert len(answers) == len(ROWS)
    assert answers.dtype == np.float64
    assert np.isfinite(answers).all()
    order = np.random.default_rng(4).permutation(len(ROWS))
    assert np.allclose(rank(state_of(), ROWS[order]), answers[order], rtol=1e-6)


def test_nothing_to_rank_is_no_answer_and_no_error(rank):
    assert len(rank(state_of(), ROWS[:0])) == 0


def test_without_features_of_the_user_it_says_so(rank):
    state = state_of()
    state.user = None
    with pytest.raises(VitrineError, match="user's features"):
        rank(state, ROWS)


def test_a_post_is_as_probable_whoever_is_ranked_beside_it():
    """The second stage may be given fewer posts when time is short."""
    answers = RANKERS["model"](state_of(), ROWS)
    assert np.allclose(RANKERS["model"](state_of(), ROWS[:7]), answers[:7])
    assert answers.shape == (len(ROWS), len(HEADS))
    assert np.all((answers >= 0) & (answers <= 1))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_stage_with_a_score_that_is_no_number_is_skipped_and_nothing_is_lost_or_doubled(bad, share):
    class Odd:
        version = "odd"
        heads = HEADS

        def probabilities(self, state, rows):
            values = np.tile((rows % 89)[:, None] / 89, (1, len(HEADS)))
            values[: int(share * len(rows))] = bad
            return values

        def scores(self, state, rows):
            scores = (rows % 89).astype(np.float64)
            scores[: int(share * len(rows))] = bad
            return scores

    plain = {"eligibility": {"min_pool": 5}, "rerank": {"creator_window": 0, "diversity": 0.0, "slate_size": 50}}
    weights = {"value_model": {"weights!": {"click": 1.0}}}
    spec = make_spec(**plain, **weights, first_stage={"keep": 100}, second_stage={"max_candidates": 100})
    funnel = make_funnel(spec, SNAPSHOT, PARTS, None, Metrics(), first_stage=Odd(), second_stage=Odd())
    slate = funnel.rank(FeedRequest(1, AS_OF, request_id=9))
    assert len(slate) == 50
    assert len(set(slate.post_ids.tolist())) == 50
    assert slate.degraded == (("first_stage", "second_stage") if share else ())
    assert np.isfinite(slate.scores).all()
    assert np.all(np.diff(slate.scores) <= 0)
    for stage in slate.stages:
        assert stage.num_in - stage.num_out == sum(stage.removed.values()), stage


def test_a_head_without_weight_may_have_no_number():
    class Partial(type(PARTS.second_stage)):
        def probabilities(self, *columns):
            found = super().probabilities(*columns).copy()
            found[:, HEADS.index("save")] = np.nan
            return found

    spec = make_spec(value_model={"weights!": {"click": 1.0}})
    parts = replace(PARTS, second_stage=Partial())
    slate = make_funnel(spec, SNAPSHOT, parts, None, Metrics()).rank(FeedRequest(1, AS_OF, request_id=9))
    assert slate.degraded == ()
    assert "save" not in slate.explanation(0).probabilities


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_users_vector_that_is_no_number_searches_and_ranks_nothing(bad):
    tower = FakeTower()
    tower.vector = np.full_like(tower.vector, bad)
    light = VectorRanker(tower, SNAPSHOT.catalogue.content, EVERY)
    funnel = make_funnel(make_spec(), SNAPSHOT, replace(PARTS, tower=tower, first_stage=light), None, Metrics())
    slate = funnel.rank(FeedRequest(1, AS_OF, request_id=9))
    assert slate.degraded == ("source:two_tower", "first_stage")
    assert np.isfinite(slate.scores).all()


@pytest.mark.parametrize("scores", [[], [np.nan], [1.0, np.nan, 2.0, np.inf, 2.0, -np.inf]])
def test_best_first_keeps_every_place_once(scores):
    order = best_first(np.array(scores, dtype=np.float64))
    assert sorted(order.tolist()) == list(range(len(scores)))
    if len(scores) > 1:
        assert order.tolist() == [2, 4, 0, 1, 3, 5]


def test_a_ranker_of_another_length_is_an_error_and_not_a_shift():
    candidates = FUNNEL._retrieval.run(state_of()).candidates
    with pytest.raises(ValueError, match="gave 3 scores"):
        replace(candidates).with_score("first_stage", np.zeros(3))
