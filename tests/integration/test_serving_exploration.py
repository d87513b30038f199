"""Rules and draws inside the whole funnel: who is moved, what a page shows how often, what the log can carry."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from core.errors import ConfigError
from core.schema import HEADS
from serving.funnel.draw import Exploration, page_floor
from serving.funnel.request import FeedRequest
from serving.funnel.rerank import Rerank, large_creators
from serving.spec_file import load_spec, with_overlay
from serving.support import drawn_requests, ess_share, measure_support, whole_spec
from tests.serving_fakes import AS_OF, NUM_USERS, make_runtime, make_snapshot, make_spec

SMALL = {"eligibility": {"min_pool": 5}}
SHIPPED = load_spec().exploration.model_dump(mode="json")


class Tastes:
    """A second stage whose heads differ from post to post, so that every weight moves the order."""

    bundle_id = version = "tastes"
    heads = HEADS

    def probabilities(self, state, rows):
        rng = np.random.default_rng([7, state.request.user_id])
        per_post = rng.lognormal(-4.0, 0.6, (len(state.snapshot.catalogue), len(HEADS)))
        return np.minimum(per_post[rows], 1.0)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    runtime = make_runtime(tmp_path_factory.mktemp("explore"), make_spec(**SMALL))
    yield runtime
    runtime.close()


def funnel(runtime, **overlay):
    return runtime.funnel_for(make_spec(**SMALL, **overlay), second_stage=Tastes())


def ask(funnel, user_id=1, request_id=5, **fields):
    return funnel.rank(FeedRequest(user_id, AS_OF, request_id=request_id, **fields))


def test_a_pin_stands_where_it_is_pinned_unless_the_user_may_not_see_it(runtime):
    plain = ask(funnel(runtime))
    state = runtime.funnel.state_without_features(FeedRequest(1, AS_OF))
    catalogue = runtime.snapshot.catalogue
    unseen = np.flatnonzero((state.eligibility == 0) & ~np.isin(catalogue.post_ids, plain.post_ids))
    chosen, barred = int(catalogue.post_ids[unseen[0]]), int(catalogue.post_ids[100])
    pinned = ask(funnel(runtime, rerank={"pins": {0: str(chosen), 3: str(barred)}}))
    assert pinned.post_ids[0] == chosen
    assert "pinned" in pinned.explanation(0).rules
    assert pinned.explanation(0).probabilities
    assert barred not in pinned.post_ids
    later = ask(funnel(runtime, rerank={"pins": {0: str(chosen)}}), first_position=100)
    assert chosen not in later.post_ids[:1] or "pinned" not in later.explanation(0).rules


def test_a_source_gets_its_positions_counted_over_the_visit(runtime):
    slots = funnel(runtime, rerank={"source_slots": {"trending": {"every": 5, "first": 2}}, "creator_window": 0})
    slate = ask(slots)
    held = [place for place in range(2, 30, 5) if "trending" in slate.sources_of(place)]
    assert held == list(range(2, 30, 5))
    assert any("source_slot" in slate.explanation(place).rules for place in held)
    onward = ask(slots, first_position=100)
    assert "trending" in onward.sources_of(2)
    assert "trending" in ask(slots, first_position=101).sources_of(1)


def test_small_creators_get_their_share_of_every_prefix(runtime):
    small = ~np.isin(runtime.snapshot.catalogue.creator_ids, large_creators(runtime.snapshot.catalogue, 0.25))
    floored = funnel(runtime, rerank={"exposure_floor": {"share": 0.5, "quantile": 0.25}, "creator_window": 0})
    for user_id in range(4):
        counts = np.cumsum(small[ask(floored, user_id).candidates.rows])
        plain = np.cumsum(small[ask(funnel(runtime), user_id).candidates.rows])
        promised = np.minimum(np.floor(0.5 * np.arange(1, len(counts) + 1)), counts[-1])
        assert counts[-1] > 3
        assert np.all(counts >= promised)
        assert not np.all(plain >= promised)


def test_large_creators_are_those_above_the_quantile():
    catalogue = replace(
        make_snapshot().catalogue,
        creator_ids=np.array([4, 4, 9, 2], dtype=np.int64), num_impressions=np.array([5, 5, 3, 10]),
    )  # fmt: skip
    assert large_creators(catalogue, 0.0).tolist() == [2, 4]
    assert large_creators(catalogue, 1.0).tolist() == []


def test_a_muted_topic_can_be_let_through_on_a_surface(runtime):
    from serving.funnel.eligibility import Eligibility
    from serving.funnel.state import Controls

    none = np.empty(0, dtype=np.int64)
    muting = Controls(none, none, muted_topic_ids=frozenset({4}))
    catalogue = runtime.snapshot.catalogue
    for is_hidden in (True, False):
        spec = make_spec(eligibility={"hide_muted_topics": is_hidden, "min_pool": 0}).eligibility
        codes = Eligibility(spec, catalogue).judge(1, 0, muting, none, AS_OF.timestamp()).codes
        assert ((codes == 0) & (catalogue.topic_ids == 4)).any() == (not is_hidden)


def test_a_replayed_slate_has_the_propensities_that_were_logged(runtime):
    spec = make_spec(**SMALL, exploration=SHIPPED)
    slate = runtime.funnel_for(whole_spec(spec), second_stage=Tastes()).rank(FeedRequest(1, AS_OF, request_id=9))
    request = FeedRequest(1, AS_OF)
    values = slate.candidates.scores["value"]
    again = Rerank(spec, runtime.snapshot.catalogue).propensities(request, slate.candidates, values, range(40))
    np.testing.assert_allclose(again, slate.propensities[:40], rtol=1e-9)
    assert slate.propensities[:40].min() < 1


def test_each_of_the_best_fifty_comes_at_least_as_often_as_the_spec_promises(runtime):
    # Strong exploration, so that a few hundred draws tell; the promise is computed the same way for the shipped one.
    explore = SHIPPED | {"probability": 0.8, "temperature": 0.05, "page_floor": 0.1}
    spec = make_spec(**SMALL, exploration=explore)
    assert spec.kept_page_floor == pytest.approx(1 - (1 - 0.8 / 50) ** 7)
    greedy = runtime.funnel_for(make_spec(**SMALL, rerank={"diversity": 0, "creator_window": 0}), second_stage=Tastes())
    best = ask(greedy).post_ids[:50].tolist()
    exploring, draws, shown = runtime.funnel_for(spec, second_stage=Tastes()), 600, Counter()
    for number in range(draws):
        shown.update(ask(exploring, request_id=number + 1).post_ids[:20].tolist())
    promised = spec.kept_page_floor
    slack = 4 * np.sqrt(promised * (1 - promised) / draws)
    assert min(shown[post] for post in best) / draws > promised - slack
    top = ask(greedy).post_ids[:20].tolist()
    assert len(set(shown)) > len(top)


def test_a_promise_that_the_spec_cannot_keep_is_refused_with_its_numbers():
    with pytest.raises(ConfigError, match=r"page_floor is 0.5.*keep only 0.00"):
        make_spec(exploration=SHIPPED | {"page_floor": 0.5})
    assert page_floor(Exploration(0.1, None, 50), 20, 2, num_fixed=20) == 0.0
    assert page_floor(Exploration(0.1, frozenset({3}), 50), 20, 2) == 0.0
    assert page_floor(Exploration(0.1, frozenset({3}), 50), 20, 0) == pytest.approx(0.002)


def support_of(runtime, exploration):
    spec = with_overlay(make_spec(**SMALL), {"exploration": exploration})
    logged = runtime.funnel_for(whole_spec(spec), second_stage=Tastes())
    return measure_support(spec, logged, drawn_requests(np.arange(NUM_USERS), 60, AS_OF, 3), 20, 0.2)


def test_the_shipped_exploration_leaves_a_tenth_of_the_log_for_any_weight_a_fifth_up_or_down(runtime):
    found = support_of(runtime, SHIPPED)
    assert {(one.head, round(one.factor, 1)) for one in found} == {
        (head, factor) for head in load_spec().value_model.weights for factor in (0.8, 1.2)
    }
    assert min(one.per_post for one in found) > 0.4
    assert all(one.per_post < 1 for one in found)
    assert all(one.covered == pytest.approx(1.0, abs=0.1) for one in found)
    assert ess_share(np.ones((5, 4))) == 1.0


def test_without_exploration_the_log_does_not_hold_what_a_changed_weight_would_show(runtime):
    greedy = {"temperature": 0.0, "probability": 0.0, "page_floor": 0.0}
    assert min(one.covered for one in support_of(runtime, greedy)) < 0.8
