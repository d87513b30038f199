"""What is served without ranking: the user's precomputed slate, else the popular posts of the moment.

Both keep to what the user may see right now: controls and eligibility are read, models and features are not.
"""

from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from serving.funnel.candidates import Candidates
from serving.funnel.eligibility import REASONS
from serving.funnel.request import FeedRequest, Slate, StageReport
from serving.funnel.runner import Funnel
from serving.funnel.state import RequestState
from serving.precomputed import PrecomputedSlates, StoredSlate
from serving.snapshot import UNKNOWN

PRECOMPUTED, POPULAR = "precomputed", "popular"
"""Names in `degraded`."""
_FIRST_LOOK = 4_096
"""Popular posts looked at before the whole catalogue is."""


class Reserve:
    """Slates that cost next to nothing."""

    def __init__(self, stored: PrecomputedSlates) -> None:
        self._stored = stored

    def slate(self, funnel: Funnel, request: FeedRequest) -> Slate:
        """The best there is without ranking, at most `request.limit` posts; empty when the catalogue has no more."""
        return self.precomputed(funnel, request) or _popular(funnel, request)

    def precomputed(self, funnel: Funnel, request: FeedRequest) -> Slate | None:
        """What is left of the user's stored slate, None where nothing is, it has expired or the spec wants none."""
        began = perf_counter()
        if PRECOMPUTED not in funnel.spec.fallbacks.order:
            return None
        stored = self._stored.find(request.user_id, request.surface, request.at.timestamp())
        if stored is None:
            return None
        state = funnel.state_without_features(request)
        rows = funnel.snapshot.catalogue.rows_of(stored.post_ids)
        codes = np.where(rows == UNKNOWN, REASONS.index("not_recommendable"), state.eligibility[rows])
        places = np.flatnonzero(codes == 0)
        places = places[state.is_eligible(rows[places])][: request.limit]
        if len(places) == 0:
            return None
        counts = np.bincount(codes, minlength=len(REASONS)).tolist()
        removed = {REASONS[code]: count for code, count in enumerate(counts) if code and count}
        report = StageReport(PRECOMPUTED, len(rows), len(places), perf_counter() - began, removed)
        return _restored(state, stored, rows, places, report)


def _restored(
    state: RequestState,
    stored: StoredSlate,
    rows: NDArray[np.int64],
    places: NDArray[np.int64],
    report: StageReport,
) -> Slate:
    catalogue, about = state.snapshot.catalogue, stored.about
    scores = stored.scores[places].astype(np.float64)
    return Slate(
        request_id=state.request.request_id,
        user_id=state.request.user_id,
        surface=state.request.surface,
        served_at=stored.made_at,
        spec_version=about.spec_version,
        model_versions=about.model_versions,
        candidates=Candidates(
            rows[places], stored.source_bits[places], {"value": scores},
            stored.probabilities[places].astype(np.float64),
        ),
        post_ids=stored.post_ids[places],
        creator_ids=catalogue.creator_ids[rows[places]],
        scores=scores,
        propensities=stored.propensities[places],
        rules=tuple(stored.rules[place] for place in places),
        source_names=about.source_names,
        heads=about.heads,
        weights=about.weights,
        degraded=(*state.degraded, PRECOMPUTED),
        stages=(report,),
    )  # fmt: skip


def _popular(funnel: Funnel, request: FeedRequest) -> Slate:
    began = perf_counter()
    state = funnel.state_without_features(request)
    catalogue = funnel.snapshot.catalogue
    by_popularity = catalogue.by_popularity
    rows = by_popularity[:_FIRST_LOOK]
    rows = rows[state.is_eligible(rows)]
    if len(rows) < request.limit:
        rows = by_popularity[state.is_eligible(by_popularity)]
    rows = rows[: request.limit]
    popularity = catalogue.popularity[rows].astype(np.float64)
    report = StageReport(POPULAR, len(catalogue), len(rows), perf_counter() - began)
    return Slate(
        request_id=request.request_id,
        user_id=request.user_id,
        surface=request.surface,
        served_at=request.at,
        spec_version=funnel.spec.version,
        model_versions={},
        candidates=Candidates(rows, np.zeros(len(rows), dtype=np.uint32), {"popularity": popularity}),
        post_ids=catalogue.post_ids[rows],
        creator_ids=catalogue.creator_ids[rows],
        scores=popularity,
        propensities=np.ones(len(rows)),
        rules=((),) * len(rows),
        source_names=(),
        heads=(),
        weights=(),
        degraded=(*state.degraded, POPULAR),
        stages=(report,),
    )
