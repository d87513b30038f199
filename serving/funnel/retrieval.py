"""Retrieval: asks every source, keeps what is eligible, and blends the lists.

A source with a deadline runs on a thread of its own beside the others, which look things up in memory faster than
a thread is reached. What is late or fails is dropped and named as `source:NAME`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from core.errors import DeadlineError, VitrineError
from core.logs import logger
from serving.funnel.blending import blend
from serving.funnel.candidates import Candidates
from serving.funnel.eligibility import REASONS
from serving.funnel.request import StageReport
from serving.funnel.source_pool import Call, SourcePool, Timed
from serving.funnel.sources.base import Found, Source
from serving.funnel.state import RequestState
from serving.spec import FunnelSpec


@dataclass(frozen=True)
class Retrieved:
    """Blended candidates, and the reports of each source and of the eligibility and retrieval stages."""

    candidates: Candidates
    reports: tuple[StageReport, ...]


class Retrieval:
    """The sources of one spec. A source that was declared but could not be built is always degraded.

    Without a `pool` the sources run one after another and none is ever late.
    """

    def __init__(self, spec: FunnelSpec, sources: Mapping[str, Source | None], pool: SourcePool | None = None) -> None:
        self._spec = spec
        self._sources = dict(sources)
        self._pool = pool
        self.names = tuple(sources)

    def run(self, state: RequestState) -> Retrieved:
        """Candidates of all sources that apply to this request."""
        began = perf_counter()
        answers = self._ask(state)
        lists: list[tuple[int, float, NDArray[np.int64]]] = []
        reports: list[StageReport] = []
        ineligible: list[NDArray[np.int64]] = []
        for number, name in enumerate(self.names):
            answer = answers.get(name)
            if isinstance(answer, str):
                state.degrade(f"source:{name}")
                reports.append(StageReport(f"source.{name}", 0, 0, perf_counter() - began, notes=(answer,)))
            elif answer is not None:
                found, seconds = answer
                # Sources keep to eligible posts; this is the one place where that is made sure.
                is_eligible = state.is_eligible(found.rows)
                kept, out = found.rows[is_eligible], np.concatenate([found.ineligible, found.rows[~is_eligible]])
                lists.append((number, self._spec.sources[name].weight, kept))
                ineligible.append(out)
                removed = _reasons(state, out)
                reports.append(StageReport(f"source.{name}", len(kept) + len(out), len(kept), seconds, removed))
        candidates, left = blend(lists, self._spec.blend.rank_constant, self._spec.blend.max_candidates)
        offered = len(candidates) + len(left)
        out = np.unique(np.concatenate(ineligible)) if ineligible else np.empty(0, dtype=np.int64)
        notes = tuple(state.notes)
        reports.append(StageReport("eligibility", offered + len(out), offered, 0.0, _reasons(state, out), notes))
        seconds = perf_counter() - began
        removed = {"no_room": len(left)} if len(left) else {}
        notes = state.budget.overrun("retrieval", seconds)
        reports.append(StageReport("retrieval", offered, len(candidates), seconds, removed, notes))
        return Retrieved(candidates, tuple(reports))

    def _applies(self, name: str, state: RequestState) -> bool:
        if self._spec.cold_start and state.user is not None and not state.has_history:
            return name in self._spec.cold_start
        source = self._sources[name]
        # Without features the request is degraded as a whole; its sources are not blamed one by one.
        return not (source is not None and source.needs_features and state.user is None)

    def _ask(self, state: RequestState) -> dict[str, Timed[Found] | str]:
        """What each source that applies brought, or why it brought nothing."""
        names = [name for name in self.names if self._applies(name, state)]
        answers: dict[str, Timed[Found] | str] = {}
        under_way: dict[str, Call[Found]] = {}
        limit = state.budget.left_seconds("retrieval")
        for name in names:
            source = self._sources[name]
            if source is None:
                answers[name] = "not loaded"
            elif self._pool is not None and self._spec.sources[name].deadline_ms is not None:
                try:
                    under_way[name] = self._pool.begin(name, partial(source.find, _apart(state, name)))
                except DeadlineError as error:
                    answers[name] = str(error)
        for name in names:
            source = self._sources[name]
            if source is not None and name not in answers and name not in under_way:
                answers[name] = _answer(name, partial(_timed, source, state))
        for name, call in under_way.items():
            own = (self._spec.sources[name].deadline_ms or 0.0) / 1000
            answers[name] = _answer(name, partial(call.result, own if limit is None else min(own, limit)))
        return answers


def _timed(source: Source, state: RequestState) -> Timed[Found]:
    began = perf_counter()
    found = source.find(state)
    return Timed(found, perf_counter() - began)


def _answer(name: str, finish: partial[Timed[Found]]) -> Timed[Found] | str:
    try:
        return finish()
    except VitrineError as error:
        return str(error)
    except Exception as error:
        # A fault in one source costs the feed that source and nothing else; the log has what to mend.
        logger("serving").warning("source failed", source=name, error=repr(error))
        return f"failed with {type(error).__name__}"


def _apart(state: RequestState, name: str) -> RequestState:
    """The state for another thread: what a late source does to it must reach neither the request nor its chance."""
    seed = [state.request.request_id, *name.encode()]
    return replace(state, rng=np.random.default_rng(seed), degraded=[], notes=[])


def _reasons(state: RequestState, rows: NDArray[np.int64]) -> dict[str, int]:
    counts = np.bincount(state.eligibility[rows], minlength=len(REASONS))
    return {REASONS[code]: int(n) for code, n in enumerate(counts.tolist()) if n and code}
