"""The final order of a slate: greedy choice under rules, with known probabilities. Depends on nothing but numpy.

Each position takes the candidate with the best relevance that the rules allow,

    (1 - diversity) * relevance - diversity * similarity to the posts just above      (MMR)

where relevance is the score scaled to 0..1 over the finite scores. Source: Carbonell, Goldstein, "The use of
MMR", SIGIR 1998.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.funnel.candidates import best_first


@dataclass(frozen=True)
class Exploration:
    """Slots that draw uniformly from the best `pool` allowed candidates with `probability`."""

    probability: float
    slots: frozenset[int]
    pool: int


@dataclass(frozen=True)
class Arrangement:
    """Places of the candidates in final order, with the probability of each choice given those above it."""

    order: NDArray[np.int64]
    propensities: NDArray[np.float64]
    is_explored: NDArray[np.bool_]
    is_moved: NDArray[np.bool_]
    """True where a post stands elsewhere than its score alone would put it."""
    num_relaxed: int
    """Positions where no candidate met the creator rule and the best one was taken all the same."""


def arrange(
    scores: NDArray[np.float64],
    creator_ids: NDArray[np.int64],
    *,
    limit: int,
    creator_window: int = 0,
    diversity: float = 0.0,
    diversity_window: int = 5,
    topic_ids: NDArray[np.int64] | None = None,
    content: NDArray[np.float32] | None = None,
    previous_creator_ids: Sequence[int] = (),
    exploration: Exploration | None = None,
    rng: np.random.Generator | None = None,
) -> Arrangement:
    """The best `limit` candidates in slate order.

    No creator comes twice within `creator_window` + 1 positions, `previous_creator_ids` above the slate
    included, as long as another candidate with a finite score is left. Non-finite scores come last.
    """
    by_score = best_first(scores)
    limit = min(limit, len(scores))
    is_exploring = exploration is not None and exploration.probability > 0
    if not creator_window and not diversity and not is_exploring:
        none = np.zeros(limit, dtype=np.bool_)
        return Arrangement(by_score[:limit], np.ones(limit), none, none, 0)
    relevance, is_finite = _relevance(scores), np.isfinite(scores)
    is_left = np.ones(len(scores), dtype=np.bool_)
    above = list(previous_creator_ids)
    likenesses: list[NDArray[np.float32]] = []
    order = np.empty(limit, dtype=np.int64)
    propensities = np.ones(limit, dtype=np.float64)
    is_explored = np.zeros(limit, dtype=np.bool_)
    num_relaxed = 0
    for position in range(limit):
        is_good = is_left & is_finite
        pool = is_good if is_good.any() else is_left
        is_allowed = pool.copy()
        for creator in above[max(0, len(above) - creator_window) :] if creator_window else ():
            is_allowed &= creator_ids != creator
        if not is_allowed.any():
            is_allowed, num_relaxed = pool, num_relaxed + 1
        merit = relevance
        if diversity and likenesses:
            merit = (1 - diversity) * relevance - diversity * np.maximum.reduce(likenesses[-diversity_window:])
        merit = np.where(is_allowed, merit, -np.inf)
        choice = int(np.argmax(merit))
        if exploration is not None and is_exploring and position in exploration.slots:
            choice, propensities[position], is_explored[position] = _explore(choice, merit, exploration, rng)
        order[position] = choice
        is_left[choice] = False
        above.append(int(creator_ids[choice]))
        if diversity:
            likenesses.append(_likeness(choice, topic_ids, content, len(scores)))
    return Arrangement(order, propensities, is_explored, order != by_score[:limit], num_relaxed)


def _explore(
    greedy: int, merit: NDArray[np.float64], exploration: Exploration, rng: np.random.Generator | None
) -> tuple[int, float, bool]:
    """The choice, its exact probability, and whether it was drawn."""
    if rng is None:
        raise ValueError("exploration needs a random generator")
    pool = best_first(merit)[: exploration.pool]
    pool = pool[np.isfinite(merit[pool])]
    if len(pool) == 0:
        return greedy, 1.0, False
    is_drawn = bool(rng.random() < exploration.probability)
    choice = int(rng.choice(pool)) if is_drawn else greedy
    uniform = exploration.probability / len(pool)
    return choice, uniform + (1 - exploration.probability if choice == greedy else 0.0), is_drawn


def _relevance(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores scaled to 0..1; 0 where not finite, which is chosen among its like only."""
    is_finite = np.isfinite(scores)
    if not is_finite.any():
        return np.zeros(len(scores))
    low, high = float(scores[is_finite].min()), float(scores[is_finite].max())
    # Halved first, so that two huge scores of opposite sign do not overflow.
    span = high / 2 - low / 2
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = (scores / 2 - low / 2) / span if span > 0 else np.ones(len(scores))
    return np.where(is_finite, scaled, 0.0)


def _likeness(
    shown: int, topic_ids: NDArray[np.int64] | None, content: NDArray[np.float32] | None, count: int
) -> NDArray[np.float32]:
    """Similarity of each candidate to a shown one, 0..1: mean of equal topic and content cosine, [N]."""
    parts: list[NDArray[np.float32]] = []
    if topic_ids is not None:
        is_known = topic_ids[shown] >= 0
        parts.append(((topic_ids == topic_ids[shown]) & is_known).astype(np.float32))
    if content is not None:
        parts.append(np.clip(content @ content[shown], 0.0, 1.0))
    return np.asarray(sum(parts) / np.float32(len(parts))) if parts else np.zeros(count, dtype=np.float32)
