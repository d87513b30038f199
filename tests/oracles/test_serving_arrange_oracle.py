"""Reranking against slow, obvious re-implementations: every order of a handful of posts is tried."""

import itertools
import math

import numpy as np
import pytest

from serving.funnel.arrange import Spread, arrange
from serving.funnel.constraints import Constraints, ExposureFloor, SourceSlot
from serving.funnel.diversity import DPP_STRENGTH, Dpp, Likeness
from serving.funnel.draw import Exploration

COUNT = 7


def posts(seed, count=COUNT):
    rng = np.random.default_rng(seed)
    content = rng.standard_normal((count, 3)).astype(np.float32)
    content /= np.linalg.norm(content, axis=1, keepdims=True)
    return rng.random(count), rng.integers(-1, 3, count).astype(np.int64), content


def similarity(topics, content):
    """Mean of equal known topic and cosine, ones on the diagonal."""
    same = [[float(i == j or (a == b and a >= 0)) for j, b in enumerate(topics)] for i, a in enumerate(topics)]
    return (np.array(same) + content.astype(np.float64) @ content.T.astype(np.float64)) / 2


def scaled(scores):
    return (scores - scores.min()) / (scores.max() - scores.min())


def volume(chosen, scores, topics, content, weight):
    kernel = np.eye(len(scores)) + DPP_STRENGTH * similarity(topics, content)
    part = kernel[np.ix_(chosen, chosen)]
    log_det = math.log(np.linalg.det(part)) if chosen else 0.0
    return (1 - weight) * scaled(scores)[list(chosen)].sum() + weight * log_det / math.log(1 + DPP_STRENGTH)


def distance(order, scores, topics, content, weight, window):
    alike, total = similarity(topics, content), 0.0
    same = alike * 2 - content @ content.T
    for place, post in enumerate(order):
        above = order[max(0, place - window) : place]
        unlike = [(float(same[post, a] > 0.5) + min(max(float(content[post] @ content[a]), 0), 1)) / 2 for a in above]
        total += (1 - weight) * scaled(scores)[post] - weight * max(unlike, default=0.0)
    return total


@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("weight", [0.2, 0.7])
def test_dpp_takes_the_greatest_growth_each_time_and_comes_near_the_best_set(seed, weight):
    scores, topics, content = posts(seed)
    spread = Spread(weight, window=COUNT, kind="dpp", topic_ids=topics, content=content)
    order = arrange(scores, np.arange(COUNT), limit=4, spread=spread).order.tolist()
    for place in range(4):
        above = order[:place]
        growth = [
            volume([*above, i], scores, topics, content, weight) if i not in above else -1.0 for i in range(COUNT)
        ]
        assert growth[order[place]] == pytest.approx(max(growth), abs=1e-6)
    best = max(volume(list(s), scores, topics, content, weight) for s in itertools.combinations(range(COUNT), 4))
    assert (1 - 1 / math.e) * best <= volume(order, scores, topics, content, weight) <= best + 1e-6


@pytest.mark.parametrize("seed", range(10))
def test_mmr_takes_the_greatest_growth_each_time_and_never_beats_the_best_order(seed):
    scores, topics, content = posts(seed)
    spread = Spread(0.4, window=2, kind="mmr", topic_ids=topics, content=content)
    order = arrange(scores, np.arange(COUNT), limit=4, spread=spread).order.tolist()
    for place in range(4):
        above = order[:place]
        growth = [
            distance([*above, i], scores, topics, content, 0.4, 2) if i not in above else -9.0 for i in range(COUNT)
        ]
        assert growth[order[place]] == pytest.approx(max(growth), abs=1e-6)
    every = [distance(list(o), scores, topics, content, 0.4, 2) for o in itertools.permutations(range(COUNT), 4)]
    assert distance(order, scores, topics, content, 0.4, 2) <= max(every) + 1e-6
    assert distance(order, scores, topics, content, 0.4, 2) >= np.quantile(every, 0.9)


def test_the_window_of_a_dpp_forgets_its_oldest_post_exactly():
    _, topics, content = posts(3, 20)
    dpp, placed = Dpp(Likeness(topics, content, 20), 20, 4), []
    kernel = np.eye(20) + DPP_STRENGTH * similarity(topics, content)
    for choice in np.random.default_rng(1).permutation(20)[:12].tolist():
        dpp.place(choice)
        placed = [*placed, choice][-4:]
        whole = np.linalg.slogdet(kernel[np.ix_(placed, placed)])[1]
        for other in set(range(20)) - set(placed):
            grown = np.linalg.slogdet(kernel[np.ix_([*placed, other], [*placed, other])])[1]
            assert dpp.gains()[other] * math.log(1 + DPP_STRENGTH) == pytest.approx(grown - whole, abs=1e-5)


def allowed(order, left, creators, is_small, is_from, position):
    """Creator window of 1, a third of the posts to small creators, every second position to a source."""
    pool = list(left)
    for rule in (
        lambda i: not order or creators[i] != creators[order[-1]],
        lambda i: math.floor((len(order) + 1) / 3 + 1e-9) <= sum(is_small[o] for o in order) or is_small[i],
        lambda i: position % 2 == 0 or is_from[i],
    ):
        pool = [i for i in pool if rule(i)] or pool
    return pool


def chances(pool, relevance, width, probability, size):
    weights = [math.exp(relevance[i] / width) for i in pool]
    best = sorted(pool, key=lambda i: -relevance[i])[:size]
    return {
        i: (1 - probability) * w / sum(weights) + (probability / len(best) if i in best else 0.0)
        for i, w in zip(pool, weights, strict=True)
    }


def drawing(seed, count=5):
    rng = np.random.default_rng(seed)
    scores, creators = rng.random(count), rng.integers(0, 3, count)
    is_small, is_from = creators == 0, rng.random(count) < 0.4
    constraints = Constraints(1, {}, ExposureFloor(1 / 3, is_small), (SourceSlot(1, 2, is_from),))
    return scores, creators, is_small, is_from, constraints, Exploration(0.3, None, 3, 0.5)


@pytest.mark.parametrize("seed", range(6))
def test_the_propensities_of_every_possible_slate_are_those_of_the_oracle_and_sum_to_one(seed):
    scores, creators, is_small, is_from, constraints, exploration = drawing(seed)
    relevance = scaled(scores)
    width = 0.5 * (max(relevance) - sorted(relevance)[-3])
    total = 0.0
    for order in itertools.permutations(range(5), 4):
        found = arrange(
            scores, creators, limit=4, constraints=constraints, exploration=exploration, forced=list(order)
        ).propensities
        expected = []
        for place in range(4):
            left = [i for i in range(5) if i not in order[:place]]
            pool = allowed(order[:place], left, creators, is_small, is_from, place)
            expected.append(chances(pool, relevance, width, 0.3, 3).get(order[place], 0.0))
        if all(expected):
            np.testing.assert_allclose(found, expected, rtol=1e-9)
        total += math.prod(found)
    assert total == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["mmr", "dpp"])
def test_slates_come_as_often_as_their_propensities_say(kind):
    scores, topics, content = posts(5, 5)
    _, creators, _, _, constraints, exploration = drawing(5)
    spread, num_draws = Spread(0.3, 3, kind, topics, content), 8_000
    given = {"limit": 3, "constraints": constraints, "spread": spread, "exploration": exploration}
    rng, counts = np.random.default_rng(2), {}
    for _ in range(num_draws):
        found = arrange(scores, creators, rng=rng, **given)
        order = tuple(found.order.tolist())
        counts[order] = counts.get(order, 0) + 1
        replayed = arrange(scores, creators, forced=order, **given).propensities
        np.testing.assert_allclose(found.propensities, replayed)
    chance = {
        order: math.prod(arrange(scores, creators, forced=order, **given).propensities)
        for order in itertools.permutations(range(5), 3)
    }
    expected = {order: p * num_draws for order, p in chance.items() if p > 0}
    assert set(counts) <= set(expected)
    squares = sum((counts.get(order, 0) - e) ** 2 / e for order, e in expected.items())
    freedom = len(expected) - 1
    # Wilson and Hilferty: the cube root of chi-square over its freedom is nearly normal; 4 deviations.
    assert ((squares / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom)) < 4
