"""Sources that read lists generated off-peak: trending now, and popular in a segment of users."""

import numpy as np

from serving.funnel.sources.base import Found, best_eligible, first_eligible
from serving.funnel.state import RequestState
from serving.snapshot import UNKNOWN, Lists
from serving.spec_sources import PopularSpec, TrendingSpec


class TrendingSource:
    """Decayed engagement: the better of a post's standing in the user's language and everywhere."""

    needs_features = False

    def __init__(self, spec: TrendingSpec, lists: Lists) -> None:
        self._spec = spec
        self._lists = lists

    def find(self, state: RequestState) -> Found:
        lists = [(self._lists.trending, 0), (self._lists.trending_by_language, state.language_code)]
        rows, scores = [], []
        for ragged, segment in lists:
            found, weights = ragged.list_of(segment), ragged.weights_of(segment).astype(np.float64)
            if len(found):
                rows.append(found)
                scores.append(weights / weights[0])
        if not rows:
            return first_eligible(np.empty(0, dtype=np.int64), np.empty(0), state, self._spec.quota)
        unique, place = np.unique(np.concatenate(rows), return_inverse=True)
        best = np.zeros(len(unique))
        np.maximum.at(best, place, np.concatenate(scores))
        return best_eligible(unique, best, state, self._spec.quota)


class PopularSource:
    """What users of the same country or language engaged with most; everyone's list where the segment is unknown."""

    needs_features = False

    def __init__(self, spec: PopularSpec, lists: Lists) -> None:
        self._spec = spec
        self._lists = lists

    def find(self, state: RequestState) -> Found:
        segment, ragged = UNKNOWN, self._lists.popular
        if self._spec.segment == "country":
            segment, ragged = state.country_code, self._lists.popular_by_country
        elif self._spec.segment == "language":
            segment, ragged = state.language_code, self._lists.popular_by_language
        if len(ragged.list_of(segment)) == 0:
            segment, ragged = 0, self._lists.popular
        return first_eligible(
            ragged.list_of(segment), ragged.weights_of(segment).astype(np.float64), state, self._spec.quota
        )
