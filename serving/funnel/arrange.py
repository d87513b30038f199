"""The final order of a slate: one position after the other, under rules, with known probabilities.

Each position takes the candidate with the best merit that the rules allow, or draws one. Merit mixes relevance, the
score scaled to 0..1 over the finite scores, with diversity (`diversity`); rules are in `constraints`, draws in
`draw`. The probability of each choice is exact given the posts above it, so the probability of a whole slate is the
product of its propensities. Depends on nothing but numpy.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from serving.funnel.candidates import best_first
from serving.funnel.constraints import PINNED, Constraints, Guard
from serving.funnel.diversity import Diversity, Dpp, Likeness, Mmr
from serving.funnel.draw import Exploration, choose

DIVERSITY, EXPLORATION = "diversity", "exploration"


@dataclass(frozen=True)
class Spread:
    """How the posts of a slate are kept apart: weight of diversity, its window in posts, and its measure."""

    weight: float = 0.0
    window: int = 5
    kind: Literal["mmr", "dpp"] = "mmr"
    topic_ids: NDArray[np.int64] | None = None
    content: NDArray[np.float32] | None = None

    def taken(self, order: NDArray[np.int64]) -> "Spread":
        """The same over the candidates at `order`."""
        if self.weight == 0:
            return self
        topics, content = self.topic_ids, self.content
        return replace(
            self,
            topic_ids=None if topics is None else topics[order],
            content=None if content is None else content[order],
        )

    def start(self, num_candidates: int) -> Diversity | None:
        """The measure with nothing placed, None where it is off."""
        if self.weight == 0:
            return None
        likeness = Likeness(self.topic_ids, self.content, num_candidates)
        return (Mmr if self.kind == "mmr" else Dpp)(likeness, num_candidates, self.window)


@dataclass(frozen=True)
class Arrangement:
    """Places of the candidates in final order, with the probability of each choice given those above it."""

    order: NDArray[np.int64]
    propensities: NDArray[np.float64]
    moved_by: tuple[frozenset[str], ...]
    """By candidate: the rules that put it before or behind another at some position."""
    num_relaxed: dict[str, int]
    """Positions where no candidate met a rule and it yielded, by rule."""


def arrange(
    scores: NDArray[np.float64],
    creator_ids: NDArray[np.int64],
    *,
    limit: int,
    constraints: Constraints | None = None,
    spread: Spread | None = None,
    previous_creator_ids: Sequence[int] = (),
    exploration: Exploration | None = None,
    rng: np.random.Generator | None = None,
    forced: Sequence[int] | None = None,
    placed: Sequence[int] | NDArray[np.int64] = (),
) -> Arrangement:
    """The best `limit` candidates in slate order; non-finite scores come last.

    `placed`: places that head the slate already, in order; the outcome is of the positions behind them, and equal to
    what one call for all of them would have given if `rng` goes on from where it was.
    `forced`: places that are taken in this order whatever the draw; `propensities` then says how probable each was,
    0 where it could not have been chosen. That is what off-policy estimates ask of a target policy.
    """
    limit = min(limit, len(scores)) if forced is None else len(forced)
    after = len(placed)
    constraints, spread = constraints or Constraints(), spread or Spread()
    is_exploring = exploration is not None and exploration.is_on
    if not constraints.is_on and spread.weight == 0 and not is_exploring and forced is None:
        return Arrangement(best_first(scores)[after:limit], np.ones(limit - after), (frozenset(),) * len(scores), {})
    if is_exploring and rng is None and forced is None:
        raise ValueError("exploration needs a random generator")
    # Inside, places are ranks: the best remaining score is then the first one left.
    by_score = best_first(scores)
    guard = Guard(constraints.taken(by_score), creator_ids[by_score], limit, list(previous_creator_ids))
    run = _Run(scores[by_score], guard, spread.taken(by_score), exploration if is_exploring else None)
    rank_of = np.argsort(by_score) if forced is not None or after else by_score
    for rank in rank_of[np.asarray(placed, dtype=np.int64)].tolist():
        run.take(rank)
    ranks = None if forced is None else rank_of[np.asarray(forced, dtype=np.int64)].tolist()
    for position in range(after, limit):
        number = rng.random() if is_exploring and rng is not None and ranks is None else None
        run.step(constraints.first_position + position, position, number, None if ranks is None else ranks[position])
    moved_by = [frozenset[str]()] * len(scores)
    for rank, rules in run.moved_by.items():
        moved_by[int(by_score[rank])] = frozenset(rules)
    order = by_score[np.array(run.order, dtype=np.int64)]
    return Arrangement(order, np.array(run.propensities), tuple(moved_by), guard.num_relaxed)


class _Run:
    """One slate being filled. Candidates are in order of score, those without a finite one last."""

    def __init__(
        self, scores: NDArray[np.float64], guard: Guard, spread: Spread, exploration: Exploration | None
    ) -> None:
        self._guard = guard
        relevance = _relevance(scores)
        self._num_finite = int(np.isfinite(scores).sum())
        self._weight, self._diversity = spread.weight, spread.start(len(scores))
        self._exploration = exploration
        self._width = self._score_spread(relevance, exploration.pool) if exploration else 0.0
        self._pool = ~guard.reserved(len(scores))
        """Who may be chosen now. Those without a finite score wait until nobody else is left."""
        self._waiting = np.flatnonzero(self._pool[self._num_finite :]) + self._num_finite
        self._num_left = int(np.count_nonzero(self._pool)) - len(self._waiting)
        self._pool[self._waiting] = False
        self._base = (1 - spread.weight) * relevance
        """The part of merit that does not change, -inf for who may not be chosen."""
        self._whole_base = self._base.copy()
        self._base[~self._pool] = -np.inf
        self._let_in()
        self.order: list[int] = []
        self.propensities: list[float] = []
        self.moved_by: dict[int, set[str]] = {}

    def _score_spread(self, relevance: NDArray[np.float64], pool: int) -> float:
        """Relevance between the best and the worst post of the pool: robust against outliers far down."""
        best = relevance[: self._num_finite][:pool]
        return float(best[0] - best[-1]) if len(best) else 0.0

    def step(self, at: int, position: int, number: float | None, forced: int | None) -> None:
        """Fills the next position; `at` counts from the start of the visit, `position` from that of the slate."""
        pinned = self._guard.pinned(position)
        if pinned is not None:
            choice, chance = pinned, 1.0
            self.moved_by.setdefault(pinned, set()).add(PINNED)
        else:
            exploration = self._exploration
            is_drawing = exploration is not None and exploration.is_at(at)
            best, allowed, merit = self._best(position, is_drawing)
            choice, chance = best, 1.0
            if exploration is not None and is_drawing:
                choice, chance = choose(merit, allowed, best, exploration, self._width, number, forced)
                self._moved(best, choice, EXPLORATION)
        if forced is not None and forced != choice:
            choice, chance = forced, 0.0
        self.order.append(choice)
        self.propensities.append(chance)
        self.take(choice)

    def take(self, choice: int) -> None:
        """Counts a candidate as placed."""
        if self._pool[choice]:
            self._num_left -= 1
            self._pool[choice] = False
            self._base[choice] = -np.inf
        else:
            self._waiting = self._waiting[self._waiting != choice]
        self._let_in()
        self._guard.place(choice)
        if self._diversity is not None:
            self._diversity.place(choice)

    def _let_in(self) -> None:
        if self._num_left == 0 and len(self._waiting):
            self._pool[self._waiting] = True
            self._base[self._waiting] = self._whole_base[self._waiting]
            self._num_left, self._waiting = len(self._waiting), self._waiting[:0]

    def _best(self, position: int, is_drawing: bool) -> tuple[int, NDArray[np.bool_], NDArray[np.float64]]:
        """The candidate that stands here without a draw, all that could, and their merit, -inf for the others."""
        pool, merit, best = self._pool, self._base, int(self._base.argmax())
        if self._diversity is not None:
            merit = self._base + self._weight * self._diversity.gains()
            best = self._moved(best, int(merit.argmax()), DIVERSITY)
        if not is_drawing and self._guard.permits(best, position):
            return best, pool, merit
        for rule, narrower in self._guard.narrowed(pool, position):
            pool, merit = narrower, np.where(narrower, merit, -np.inf)
            best = self._moved(best, best if pool[best] else int(merit.argmax()), rule)
        return best, pool, merit

    def _moved(self, before: int, after: int, rule: str) -> int:
        if before != after:
            self.moved_by.setdefault(before, set()).add(rule)
            self.moved_by.setdefault(after, set()).add(rule)
        return after


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
