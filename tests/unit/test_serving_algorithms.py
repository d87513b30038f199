"""Values computed by hand for the funnel's pure algorithms."""

import numpy as np
import pytest

from core.schema import HEADS
from serving.funnel.adjust import boost_fresh, downrank_doubtful
from serving.funnel.arrange import Spread, arrange
from serving.funnel.blending import blend
from serving.funnel.constraints import Constraints
from serving.funnel.draw import Exploration
from serving.funnel.row_cache import RowCache
from serving.funnel.value import values, weight_vector


def rows(*numbers):
    return np.array(numbers, dtype=np.int64)


def test_blend_adds_reciprocal_ranks_and_keeps_every_source():
    candidates, left = blend([(0, 1.0, rows(5, 7)), (2, 2.0, rows(7, 9))], rank_constant=60, max_candidates=2)
    assert candidates.rows.tolist() == [7, 9]
    np.testing.assert_allclose(candidates.scores["blend"], [1 / 61 + 2 / 60, 2 / 61])
    assert candidates.source_bits.tolist() == [0b101, 0b100]
    assert left.tolist() == [5]


def test_value_is_the_weighted_sum_of_probabilities():
    weights = weight_vector(HEADS, {"click": 1.0, "like": 2.0, "report": -20.0})
    probabilities = np.zeros((1, len(HEADS)))
    probabilities[0, HEADS.index("click")] = 0.1
    probabilities[0, HEADS.index("like")] = 0.05
    probabilities[0, HEADS.index("report")] = 0.01
    assert values(probabilities, weights)[0] == pytest.approx(0.1 + 0.1 - 0.2)


def test_a_head_without_weight_may_be_missing():
    probabilities = np.array([[0.5, np.nan]])
    assert values(probabilities, np.array([2.0, 0.0])).tolist() == [1.0]


def test_doubtful_posts_sink_whatever_the_sign_of_their_score():
    scores, touched = downrank_doubtful(np.array([2.0, -2.0, 2.0]), np.array([0.4, 0.4, 0.6]), 0.5, 0.5)
    assert scores.tolist() == [1.0, -3.0, 2.0]
    assert touched.tolist() == [True, True, False]


def test_freshness_boost_halves_with_age():
    scores, _ = boost_fresh(np.array([1.0, 1.0, -1.0]), np.array([0.0, 24.0, 0.0]), 0.2, 24.0)
    np.testing.assert_allclose(scores, [1.2, 1.1, -0.8])


def test_same_creator_does_not_follow_itself():
    found = arrange(np.array([5.0, 4.0, 3.0, 2.0]), rows(1, 1, 2, 3), limit=4, constraints=Constraints(2))
    assert found.order.tolist() == [0, 2, 3, 1]
    assert found.moved_by == (set(), *[{"creator_window"}] * 3)


def test_creator_rule_holds_across_pages_and_yields_when_nothing_else_is_left():
    found = arrange(np.array([5.0, 4.0]), rows(1, 1), limit=2, constraints=Constraints(1), previous_creator_ids=[1])
    assert found.order.tolist() == [0, 1]
    assert found.num_relaxed == {"creator_window": 2}
    other = arrange(np.array([5.0, 4.0]), rows(1, 2), limit=2, constraints=Constraints(1), previous_creator_ids=[1])
    assert other.order.tolist() == [1, 0]


def test_diversity_prefers_another_topic_at_a_near_tie():
    scores, topics, creators = np.array([1.0, 0.99, 0.98, 0.0]), rows(4, 4, 6, 7), rows(1, 2, 3, 4)
    plain = arrange(scores, creators, limit=3, spread=Spread(topic_ids=topics))
    spread = arrange(scores, creators, limit=3, spread=Spread(0.3, topic_ids=topics))
    assert plain.order.tolist() == [0, 1, 2]
    assert spread.order.tolist() == [0, 2, 1]


def test_unknown_topics_are_not_alike():
    scores, topics = np.array([1.0, 0.99, 0.98]), rows(-1, -1, 6)
    found = arrange(scores, rows(1, 2, 3), limit=3, spread=Spread(0.3, topic_ids=topics))
    assert found.order.tolist() == [0, 1, 2]


def test_exploration_logs_the_exact_probability_of_each_choice():
    scores, creators = np.array([3.0, 2.0, 1.0, 0.0]), rows(1, 2, 3, 4)
    exploration = Exploration(0.4, frozenset({0}), pool=4)
    rng = np.random.default_rng(11)
    firsts, propensities = [], {}
    for _ in range(20_000):
        found = arrange(scores, creators, limit=2, exploration=exploration, rng=rng)
        firsts.append(int(found.order[0]))
        propensities[int(found.order[0])] = found.propensities[0]
        assert found.propensities[1] == 1.0
    assert propensities == {0: pytest.approx(0.7), 1: pytest.approx(0.1), 2: pytest.approx(0.1), 3: pytest.approx(0.1)}
    frequencies = np.bincount(firsts, minlength=4) / len(firsts)
    np.testing.assert_allclose(frequencies, [0.7, 0.1, 0.1, 0.1], atol=0.012)


def test_exploration_keeps_to_the_creator_rule():
    scores, creators = np.array([4.0, 3.0, 2.0, 1.0]), rows(1, 1, 1, 2)
    exploration = Exploration(1.0, frozenset({1}), pool=10)
    for seed in range(50):
        found = arrange(
            scores, creators, limit=2, constraints=Constraints(1), exploration=exploration,
            rng=np.random.default_rng(seed),
        )  # fmt: skip
        assert found.order.tolist() == [0, 3]
        assert found.propensities[1] == 1.0


class CountingRead:
    def __init__(self):
        self.asked = []

    def __call__(self, ids):
        self.asked.append(ids.tolist())
        return {"value": ids * 10.0, "list": np.stack([ids, ids + 1], axis=1)}


def test_row_cache_reads_only_what_it_lacks_in_the_order_asked():
    read, cache = CountingRead(), RowCache(100, 60)
    assert cache.gather(rows(3, 1, 3), 0.0, read)["value"].tolist() == [30, 10, 30]
    found = cache.gather(rows(2, 3), 1.0, read)
    assert found["value"].tolist() == [20, 30]
    assert found["list"].tolist() == [[2, 3], [3, 4]]
    assert read.asked == [[1, 3], [2]]
    assert (cache.counts.num_asked, cache.counts.num_hits) == (4, 1)


def test_row_cache_reads_again_what_is_too_old():
    read, cache = CountingRead(), RowCache(100, 60)
    cache.gather(rows(1), 0.0, read)
    cache.gather(rows(1), 60.0, read)
    assert len(read.asked) == 1
    cache.gather(rows(1), 61.0, read)
    cache.gather(rows(1), 62.0, read)
    assert len(read.asked) == 2


def test_row_cache_stays_within_its_size_and_drops_the_oldest():
    read, cache = CountingRead(), RowCache(3, 60)
    for number in range(10):
        assert cache.gather(rows(number), float(number), read)["value"].tolist() == [number * 10]
    assert len(cache) == 3
    cache.gather(rows(7, 8, 9), 10.0, read)
    assert len(read.asked) == 10


def test_row_cache_answers_a_request_larger_than_itself():
    read, cache = CountingRead(), RowCache(2, 60)
    assert cache.gather(rows(1, 2, 3, 4), 0.0, read)["value"].tolist() == [10, 20, 30, 40]
    assert len(cache) == 2


def test_row_cache_is_unchanged_when_the_read_fails():
    cache = RowCache(10, 60)
    cache.gather(rows(1), 0.0, CountingRead())

    def fails(ids):
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        cache.gather(rows(1, 2), 0.0, fails)
    assert len(cache) == 1
    cache.clear()
    assert cache.gather(rows(2), 0.0, CountingRead())["value"].tolist() == [20]


@pytest.mark.parametrize("kind", ["mmr", "dpp"])
def test_positions_behind_those_placed_are_what_one_call_for_all_gives(kind):
    rng = np.random.default_rng(3)
    scores, creators, topics = rng.normal(size=40), rng.integers(0, 15, 40), rng.integers(0, 5, 40)
    scores[[3, 11]] = np.nan
    given = {
        "constraints": Constraints(2, pins={6: 20}),
        "spread": Spread(0.3, 3, kind, topics),
        "previous_creator_ids": [1, 2],
        "exploration": Exploration(0.2, None, 5, 0.3),
    }
    whole = arrange(scores, creators, limit=40, rng=np.random.default_rng(9), **given)
    drawn = np.random.default_rng(9)
    first = arrange(scores, creators, limit=7, rng=drawn, **given)
    rest = arrange(scores, creators, limit=40, rng=drawn, placed=first.order, **given)
    assert [*first.order, *rest.order] == whole.order.tolist()
    assert [*first.propensities, *rest.propensities] == whole.propensities.tolist()
    assert all(whole.moved_by[place] == first.moved_by[place] for place in first.order)
