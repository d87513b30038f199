"""Final reranking: score adjustments, then the order under rules; says for each post which rules acted."""

from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from serving.funnel.adjust import boost_fresh, downrank_doubtful
from serving.funnel.arrange import Arrangement, Exploration, arrange
from serving.funnel.candidates import Candidates
from serving.funnel.request import StageReport
from serving.funnel.state import RequestState
from serving.snapshot import Catalogue
from serving.spec import FunnelSpec


@dataclass(frozen=True)
class Reranked:
    """Candidates in slate order with final scores, propensities and the rules that acted on each."""

    candidates: Candidates
    scores: NDArray[np.float64]
    propensities: NDArray[np.float64]
    rules: tuple[tuple[str, ...], ...]
    report: StageReport


class Rerank:
    """The rules of one spec."""

    def __init__(self, spec: FunnelSpec, catalogue: Catalogue) -> None:
        self._spec = spec.rerank
        self._catalogue = catalogue
        explore = spec.exploration
        is_on = explore.probability > 0 and len(explore.slots) > 0
        self._exploration = Exploration(explore.probability, frozenset(explore.slots), explore.pool) if is_on else None

    def run(self, state: RequestState, candidates: Candidates, scores: NDArray[np.float64]) -> Reranked:
        """The slate: at most `slate_size` posts."""
        began = perf_counter()
        adjusted, touched = self._adjusted(state, candidates.rows, scores)
        arrangement = self._arranged(state, candidates.rows, adjusted)
        order = arrangement.order
        rules = tuple(self._rules(arrangement, touched, place) for place in range(len(order)))
        num_cut = len(candidates) - len(order)
        notes = (f"creator rule relaxed at {arrangement.num_relaxed} positions",) if arrangement.num_relaxed else ()
        report = StageReport(
            "rerank",
            len(candidates),
            len(order),
            perf_counter() - began,
            {"no_room": num_cut} if num_cut else {},
            notes,
        )
        return Reranked(candidates.take(order), adjusted[order], arrangement.propensities, rules, report)

    def _adjusted(
        self, state: RequestState, rows: NDArray[np.int64], scores: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], dict[str, NDArray[np.bool_]]]:
        spec, posts = self._spec, self._catalogue
        lowered, is_doubtful = downrank_doubtful(
            scores, posts.integrity[rows], spec.downrank_integrity_below, spec.downrank_strength
        )
        age_hours = (state.at_seconds - posts.created_at[rows]) / 3600.0
        raised, is_fresh = boost_fresh(lowered, age_hours, spec.freshness_boost, spec.freshness_half_life_hours)
        return raised, {"integrity_downrank": is_doubtful, "freshness_boost": is_fresh}

    def _arranged(self, state: RequestState, rows: NDArray[np.int64], scores: NDArray[np.float64]) -> Arrangement:
        spec, posts = self._spec, self._catalogue
        return arrange(
            scores,
            posts.creator_ids[rows],
            limit=spec.slate_size,
            creator_window=spec.creator_window,
            diversity=spec.diversity,
            diversity_window=spec.diversity_window,
            topic_ids=posts.topic_ids[rows],
            content=posts.content[rows],
            previous_creator_ids=state.request.previous_creator_ids,
            exploration=self._exploration,
            rng=state.rng,
        )

    def _rules(self, arrangement: Arrangement, touched: dict[str, NDArray[np.bool_]], place: int) -> tuple[str, ...]:
        candidate = int(arrangement.order[place])
        rules = [name for name, is_touched in touched.items() if is_touched[candidate]]
        if arrangement.is_explored[place]:
            rules.append("exploration")
        elif arrangement.is_moved[place]:
            rules.append("creator_and_topic_spread")
        return tuple(rules)
