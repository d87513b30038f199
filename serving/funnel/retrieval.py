"""Retrieval: asks every source, keeps what is eligible, and blends the lists."""

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from core.errors import VitrineError
from serving.funnel.blending import blend
from serving.funnel.candidates import Candidates
from serving.funnel.eligibility import REASONS
from serving.funnel.request import StageReport
from serving.funnel.sources.base import Found, Source
from serving.funnel.state import RequestState
from serving.spec import FunnelSpec


@dataclass(frozen=True)
class Retrieved:
    """Blended candidates, and the reports of each source and of the eligibility and retrieval stages."""

    candidates: Candidates
    reports: tuple[StageReport, ...]


class Retrieval:
    """The sources of one spec. A source that was declared but could not be built is always degraded."""

    def __init__(self, spec: FunnelSpec, sources: Mapping[str, Source | None]) -> None:
        self._spec = spec
        self._sources = dict(sources)
        self.names = tuple(sources)

    def run(self, state: RequestState) -> Retrieved:
        """Candidates of all sources that apply to this request."""
        lists: list[tuple[int, float, NDArray[np.int64]]] = []
        reports: list[StageReport] = []
        ineligible: list[NDArray[np.int64]] = []
        for number, name in enumerate(self.names):
            if not self._applies(name, state):
                continue
            began = perf_counter()
            found = self._find(name, state)
            if found is None:
                continue
            # Sources keep to eligible posts; this is the one place where that is made sure.
            is_eligible = state.is_eligible(found.rows)
            ineligible += [found.ineligible, found.rows[~is_eligible]]
            rows = found.rows[is_eligible]
            lists.append((number, self._spec.sources[name].weight, rows))
            offered = len(found.rows) + len(found.ineligible)
            reports.append(StageReport(f"source.{name}", offered, len(rows), perf_counter() - began))
        began = perf_counter()
        candidates, left = blend(lists, self._spec.blend.rank_constant, self._spec.blend.max_candidates)
        offered = len(candidates) + len(left)
        reports.append(self._eligibility_report(state, ineligible, offered))
        removed = {"no_room": len(left)} if len(left) else {}
        reports.append(StageReport("retrieval", offered, len(candidates), perf_counter() - began, removed))
        return Retrieved(candidates, tuple(reports))

    def _applies(self, name: str, state: RequestState) -> bool:
        if self._spec.cold_start and state.user is not None and not state.has_history:
            return name in self._spec.cold_start
        source = self._sources[name]
        # Without features the request is degraded as a whole; its sources are not blamed one by one.
        return not (source is not None and source.needs_features and state.user is None)

    def _find(self, name: str, state: RequestState) -> Found | None:
        source = self._sources[name]
        if source is None:
            state.degrade(name)
            return None
        try:
            return source.find(state)
        except VitrineError:
            state.degrade(name)
            return None

    def _eligibility_report(
        self, state: RequestState, ineligible: list[NDArray[np.int64]], num_kept: int
    ) -> StageReport:
        rows = np.unique(np.concatenate(ineligible)) if ineligible else np.empty(0, dtype=np.int64)
        counts = np.bincount(state.eligibility[rows], minlength=len(REASONS))
        removed = {REASONS[code]: int(n) for code, n in enumerate(counts.tolist()) if n and code}
        return StageReport("eligibility", num_kept + len(rows), num_kept, 0.0, removed, tuple(state.notes))
