"""A source without opinion: eligible posts drawn uniformly."""

import numpy as np

from serving.funnel.sources.base import Found
from serving.funnel.state import RequestState
from serving.spec_sources import RandomSpec


class RandomSource:
    """Draws without replacement from the request's own random stream."""

    needs_features = False

    def __init__(self, spec: RandomSpec) -> None:
        self._spec = spec

    def find(self, state: RequestState) -> Found:
        eligible = np.flatnonzero(state.eligibility == 0)
        rows = state.rng.choice(eligible, size=min(self._spec.quota, len(eligible)), replace=False)
        scores = np.sort(state.rng.random(len(rows)))[::-1]
        return Found(rows.astype(np.int64), scores.copy(), np.empty(0, dtype=np.int64))
