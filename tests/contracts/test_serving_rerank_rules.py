"""Every rule of the rerank, alone and together: the slate is the candidates in another order, and no more."""

import numpy as np
import pytest

from serving.bootstrap import make_funnel
from serving.funnel.candidates import Candidates
from serving.funnel.request import FeedRequest
from serving.funnel.rerank import Rerank
from serving.metrics import Metrics
from tests.serving_fakes import AS_OF, make_parts, make_snapshot, make_spec

SNAPSHOT = make_snapshot()
CATALOGUE = SNAPSHOT.catalogue
OFF = {
    "creator_window": 0, "diversity": 0.0, "freshness_boost": 0.0, "downrank_integrity_below": 0.0,
    "slate_size": 100,
}  # fmt: skip
RULES = {
    "none": {},
    "creator spacing": {"rerank": {"creator_window": 5}},
    "more spacing than creators": {"rerank": {"creator_window": 50}},
    "diversity": {"rerank": {"diversity": 0.5}},
    "diversity alone": {"rerank": {"diversity": 1.0}},
    "freshness": {"rerank": {"freshness_boost": 2.0}},
    "integrity": {"rerank": {"downrank_strength": 1.0, "downrank_integrity_below": 0.9}},
    "exploration": {"exploration": {"probability": 0.5, "slots": [0, 2, 4], "pool": 10}},
    "together": {
        "rerank": {"creator_window": 3, "diversity": 0.2, "freshness_boost": 0.5, "downrank_integrity_below": 0.7},
        "exploration": {"probability": 0.5, "slots": [1, 3], "pool": 5},
    },
}


def rerank(overlay, scores, **request):
    rules = {"rerank": {**OFF, **overlay.get("rerank", {})}, "exploration": overlay.get("exploration", {})}
    spec = make_spec(eligibility={"min_pool": 5}, **rules)
    state = make_funnel(spec, SNAPSHOT, make_parts(SNAPSHOT), None, Metrics())._open(
        FeedRequest(1, AS_OF, request_id=4, **request)
    )
    rows = np.random.default_rng(8).permutation(len(CATALOGUE))[: len(scores)].astype(np.int64)
    candidates = Candidates(rows, np.ones(len(rows), dtype=np.uint32), {"value": scores})
    return candidates, Rerank(spec, CATALOGUE).run(state, candidates, scores)


@pytest.fixture(params=RULES)
def overlay(request):
    return RULES[request.param]


def scores_of(kind):
    scores = np.random.default_rng(2).normal(size=60)
    if kind == "ties":
        scores[:] = 1.0
    elif kind == "holes":
        scores[::3] = np.nan
        scores[1::9] = np.inf
    elif kind == "no numbers":
        scores[:] = np.nan
    return scores


@pytest.mark.parametrize("kind", ["plain", "ties", "holes", "no numbers"])
def test_nothing_is_lost_or_doubled_and_what_is_no_number_comes_last(overlay, kind):
    scores = scores_of(kind)
    candidates, found = rerank(overlay, scores)
    assert sorted(found.candidates.rows.tolist()) == sorted(candidates.rows.tolist())
    assert len(found.scores) == len(found.propensities) == len(found.rules) == len(scores)
    assert np.all((found.propensities > 0) & (found.propensities <= 1))
    is_finite = np.isfinite(found.candidates.scores["value"])
    assert np.all(np.diff(is_finite.astype(int)) <= 0)
    # Scores and rows stay together.
    place_of = {row: place for place, row in enumerate(candidates.rows.tolist())}
    places = [place_of[row] for row in found.candidates.rows.tolist()]
    assert np.array_equal(found.candidates.scores["value"], scores[places], equal_nan=True)
    assert found.report.num_in == found.report.num_out == len(scores)


def test_a_short_slate_says_what_found_no_room(overlay):
    short = {**overlay, "rerank": {**overlay.get("rerank", {}), "slate_size": 7}}
    _, found = rerank(short, scores_of("plain"))
    assert len(found.candidates) == 7
    assert found.report.removed == {"no_room": 53}


@pytest.mark.parametrize("count", [0, 1])
def test_next_to_nothing_is_no_error(overlay, count):
    _, found = rerank(overlay, scores_of("plain")[:count])
    assert len(found.candidates) == len(found.rules) == count


def test_the_same_request_gives_the_same_order(overlay):
    one, other = (rerank(overlay, scores_of("plain"))[1] for _ in range(2))
    assert one.candidates.rows.tolist() == other.candidates.rows.tolist()
    assert one.propensities.tolist() == other.propensities.tolist()


def test_without_rules_the_score_decides():
    _, found = rerank({}, scores_of("plain"))
    assert np.all(np.diff(found.scores) <= 0)
    assert set(found.rules) == {()}
