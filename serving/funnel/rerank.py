"""Final reranking: score adjustments, then the order under rules; says for each post which rules acted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.ids import internal_id
from serving.funnel.adjust import boost_fresh, downrank_doubtful
from serving.funnel.arrange import Arrangement, Spread, arrange
from serving.funnel.candidates import Candidates
from serving.funnel.constraints import Constraints, ExposureFloor, SourceSlot
from serving.funnel.draw import Exploration
from serving.funnel.request import FeedRequest, StageReport
from serving.funnel.state import RequestState
from serving.snapshot import UNKNOWN, Catalogue
from serving.spec import FunnelSpec


@dataclass(frozen=True)
class Reranked:
    """Candidates in slate order with final scores, propensities and the rules that acted on each."""

    candidates: Candidates
    scores: NDArray[np.float64]
    propensities: NDArray[np.float64]
    rules: tuple[tuple[str, ...], ...]
    report: StageReport
    places: NDArray[np.int64]
    """Of the posts among the candidates that were given."""
    rest: "Callable[[], Reranked] | None" = None
    """The whole slate, of which these are the first posts; None where nothing is behind them."""


class _Scored(NamedTuple):
    """Candidates with final scores, and by rule which of them it changed."""

    candidates: Candidates
    scores: NDArray[np.float64]
    touched: dict[str, NDArray[np.bool_]]


class Rerank:
    """The rules of one spec."""

    def __init__(self, spec: FunnelSpec, catalogue: Catalogue) -> None:
        self._spec = spec.rerank
        self._catalogue = catalogue
        self._sources = tuple(spec.sources)
        floor = spec.rerank.exposure_floor
        self._floor_share = floor.share if floor else 0.0
        self._large_creators = large_creators(catalogue, floor.quantile) if floor and floor.share else None
        self._pins = {at: internal_id(post) for at, post in spec.rerank.pins.items()}
        explore = spec.exploration
        self._exploration = Exploration(
            explore.probability, frozenset(explore.slots) or None, explore.pool, explore.temperature
        )

    def with_pins(self, state: RequestState, candidates: Candidates) -> Candidates:
        """The candidates with the eligible pinned posts of this slate that no source brought, in front."""
        first, size = state.request.first_position, self._spec.slate_size
        ids = [post for at, post in self._pins.items() if first <= at < first + size]
        if not ids:
            return candidates
        rows = self._catalogue.rows_of(np.array(ids, dtype=np.int64))
        rows = rows[rows != UNKNOWN]
        return candidates.preceded_by(rows[state.is_eligible(rows) & ~np.isin(rows, candidates.rows)])

    def run(
        self, state: RequestState, candidates: Candidates, scores: NDArray[np.float64], first: int | None = None
    ) -> Reranked:
        """The slate: at most `slate_size` posts, or its first ones, behind which `Reranked.rest` goes on."""
        began = perf_counter()
        scored = self._scored(state.request, candidates, scores)
        return self._ordered(state.request, scored, state.rng, first, None, began)

    def _ordered(
        self,
        request: FeedRequest,
        scored: _Scored,
        rng: np.random.Generator,
        first: int | None,
        above: Reranked | None,
        began: float,
    ) -> Reranked:
        """The slate up to `first` posts, or to its end; those of `above` head it already."""
        candidates, size = scored.candidates, min(self._spec.slate_size, len(scored.candidates))
        end = size if first is None else min(first, size)
        placed = () if above is None else above.places
        arrangement = self._arranged(request, candidates, scored.scores, rng, end, placed=placed)
        rules = tuple(_rules(arrangement, scored.touched, place) for place in arrangement.order.tolist())
        order, propensities = arrangement.order, arrangement.propensities
        if above is not None:
            order = np.concatenate([above.places, order])
            propensities = np.concatenate([above.propensities, propensities])
            rules = above.rules + rules
        notes = tuple(f"{rule} yielded at {count} positions" for rule, count in arrangement.num_relaxed.items())
        removed = {"no_room": len(candidates) - size} if len(candidates) > size else {}
        report = StageReport("rerank", len(candidates), size, perf_counter() - began, removed, notes)
        reranked = Reranked(candidates.take(order), scored.scores[order], propensities, rules, report, order)
        if end == size:
            return reranked
        return replace(reranked, rest=lambda: self._ordered(request, scored, rng, None, reranked, perf_counter()))

    def _scored(self, request: FeedRequest, candidates: Candidates, scores: NDArray[np.float64]) -> _Scored:
        adjusted, touched = self._adjusted(request, candidates.rows, scores)
        return _Scored(candidates, adjusted, touched)

    def propensities(
        self, request: FeedRequest, candidates: Candidates, scores: NDArray[np.float64], order: Sequence[int]
    ) -> NDArray[np.float64]:
        """Probability with which this spec would have chosen each post of `order` below those before it."""
        adjusted, _ = self._adjusted(request, candidates.rows, scores)
        return self._arranged(request, candidates, adjusted, None, len(order), forced=order).propensities

    def _adjusted(
        self, request: FeedRequest, rows: NDArray[np.int64], scores: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], dict[str, NDArray[np.bool_]]]:
        spec, posts = self._spec, self._catalogue
        lowered, is_doubtful = downrank_doubtful(
            scores, posts.integrity[rows], spec.downrank_integrity_below, spec.downrank_strength
        )
        age_hours = (request.at.timestamp() - posts.created_at[rows]) / 3600.0
        raised, is_fresh = boost_fresh(lowered, age_hours, spec.freshness_boost, spec.freshness_half_life_hours)
        touched = {"freshness_boost": is_fresh}
        if spec.downrank_strength > 0:
            touched["integrity_downrank"] = is_doubtful
        return raised, touched

    def _arranged(
        self,
        request: FeedRequest,
        candidates: Candidates,
        scores: NDArray[np.float64],
        rng: np.random.Generator | None,
        limit: int,
        forced: Sequence[int] | None = None,
        placed: Sequence[int] | NDArray[np.int64] = (),
    ) -> Arrangement:
        spec, posts, rows = self._spec, self._catalogue, candidates.rows
        spread = Spread(
            spec.diversity, spec.diversity_window, spec.diversity_by, posts.topic_ids[rows], posts.content[rows]
        )
        return arrange(
            scores, posts.creator_ids[rows], limit=limit,
            constraints=self._constraints(request, candidates), spread=spread,
            previous_creator_ids=request.previous_creator_ids, exploration=self._exploration, rng=rng, forced=forced,
            placed=placed,
        )  # fmt: skip

    def _constraints(self, request: FeedRequest, candidates: Candidates) -> Constraints:
        creators = self._catalogue.creator_ids[candidates.rows]
        floor = None
        if self._large_creators is not None:
            floor = ExposureFloor(self._floor_share, ~np.isin(creators, self._large_creators))
        slots = tuple(
            SourceSlot(
                slot.first, slot.every, (candidates.source_bits >> self._sources.index(name) & 1).astype(np.bool_)
            )
            for name, slot in self._spec.source_slots.items()
        )
        return Constraints(
            self._spec.creator_window, self._pinned_places(candidates.rows), floor, slots, request.first_position
        )

    def _pinned_places(self, rows: NDArray[np.int64]) -> dict[int, int]:
        """Place among the candidates of each pinned post that is one, by position."""
        if not self._pins:
            return {}
        place_of = {int(post): place for place, post in enumerate(self._catalogue.post_ids[rows])}
        return {at: place_of[post] for at, post in self._pins.items() if post in place_of}


def large_creators(catalogue: Catalogue, quantile: float) -> NDArray[np.int64]:
    """Ids of creators whose posts were seen more often than the `quantile` of all creators."""
    ids, place = np.unique(catalogue.creator_ids, return_inverse=True)
    if len(ids) == 0:
        return ids
    impressions = np.bincount(place, weights=catalogue.num_impressions)
    return np.asarray(ids[impressions > np.quantile(impressions, quantile)])


def _rules(arrangement: Arrangement, touched: dict[str, NDArray[np.bool_]], candidate: int) -> tuple[str, ...]:
    adjusted = [name for name, is_touched in touched.items() if is_touched[candidate]]
    return (*adjusted, *sorted(arrangement.moved_by[candidate]))
