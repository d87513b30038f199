"""Item-to-item retrieval from chosen posts of the user's history."""

import numpy as np
from numpy.typing import NDArray

from core.schema import HEADS
from serving.funnel.sources.base import Found, best_eligible, nothing
from serving.funnel.state import RequestState
from serving.snapshot import UNKNOWN, Catalogue, Ragged
from serving.spec_sources import HistorySpec


class HistorySource:
    """Neighbours of seeds; a post's score is the sum of seed weight × neighbour weight over the seeds."""

    needs_features = True

    def __init__(self, spec: HistorySpec, catalogue: Catalogue, neighbours: Ragged) -> None:
        self._spec = spec
        self._catalogue = catalogue
        self._neighbours = neighbours

    def find(self, state: RequestState) -> Found:
        seeds, weights = self._seeds(state)
        if len(seeds) == 0:
            return nothing()
        lists = [self._neighbours.list_of(seed) for seed in seeds.tolist()]
        scores = [
            w * self._neighbours.weights_of(seed) for seed, w in zip(seeds.tolist(), weights.tolist(), strict=True)
        ]
        rows, place = np.unique(np.concatenate(lists), return_inverse=True)
        total = np.bincount(place, weights=np.concatenate(scores), minlength=len(rows)).astype(np.float64)
        return best_eligible(rows, total, state, self._spec.quota)

    def _seeds(self, state: RequestState) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Distinct seed rows and their weights, heaviest first."""
        rows, kinds, ages = self._engagements(state)
        kind_weights = np.array([self._spec.kind_weights.get(kind, 0.0) for kind in HEADS] + [0.0])
        weights = kind_weights[kinds] * np.power(0.5, ages / (self._spec.half_life_hours * 3600.0))
        catalogue, spec = self._catalogue, self._spec
        is_good = (
            (catalogue.integrity[rows] >= spec.min_seed_integrity)
            & (catalogue.report_rate[rows] <= spec.max_seed_report_rate)
            & catalogue.is_recommendable[rows]
            & ~np.isin(rows, state.controls.hidden_rows)
            & ~np.isin(catalogue.creator_ids[rows], list(state.controls.blocked_creator_ids))
            & (ages <= spec.max_age_hours * 3600.0)
            & (weights > 0)
        )
        rows, weights = rows[is_good], weights[is_good]
        order = np.argsort(-weights, kind="stable")
        # The same post may be in the history twice: its heaviest engagement counts.
        _, first = np.unique(rows[order], return_index=True)
        chosen = order[np.sort(first)][: spec.max_seeds]
        return rows[chosen], weights[chosen]

    def _engagements(self, state: RequestState) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Rows, kinds by place in HEADS and ages in seconds: the feature store's history and what came since."""
        recent = [(row, HEADS.index(kind), at) for row, kind, at in state.controls.recent if kind in HEADS]
        rows = np.array([r for r, _, _ in recent], dtype=np.int64)
        kinds = np.array([k for _, k, _ in recent], dtype=np.int64)
        ages = state.at_seconds - np.array([at for _, _, at in recent], dtype=np.float64)
        if state.user is not None:
            stored = self._catalogue.rows_of(state.user["user_history__history_post_ids"][0])
            is_known = stored != UNKNOWN
            rows = np.concatenate([rows, stored[is_known]])
            kinds = np.concatenate([kinds, state.user["user_history__history_kinds"][0][is_known]])
            ages = np.concatenate([ages, state.at_seconds - state.user["user_history__history_at"][0][is_known]])
        return rows, kinds, np.maximum(ages, 0.0)
