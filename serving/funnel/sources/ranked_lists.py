"""Sources that read lists generated off-peak: trending now, and popular in a segment of users."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.funnel.sources.base import Found, first_eligible
from serving.funnel.state import RequestState
from serving.snapshot import UNKNOWN, Lists, Ragged
from serving.spec_sources import PopularSpec, TrendingSpec


class TrendingSource:
    """Decayed engagement: the better of a post's standing in the user's language and everywhere."""

    needs_features = False

    def __init__(self, spec: TrendingSpec, lists: Lists) -> None:
        self._spec = spec
        self._lists = lists
        self._merged: dict[int, _Merged] = {}

    def find(self, state: RequestState) -> Found:
        made_of = (self._lists.trending, self._lists.trending_by_language)
        held = self._merged.get(state.language_code)
        if held is None or held.made_of[0] is not made_of[0] or held.made_of[1] is not made_of[1]:
            held = self._merged[state.language_code] = _merged(made_of, state.language_code)
        return first_eligible(held.rows, held.scores, state, self._spec.quota)


class _Merged(NamedTuple):
    """Both lists of a language as one, best first; lists are replaced as they stream, never changed."""

    made_of: tuple[Ragged, Ragged]
    rows: NDArray[np.int64]
    scores: NDArray[np.float64]


def _merged(made_of: tuple[Ragged, Ragged], language: int) -> _Merged:
    rows, scores = [], []
    for ragged, segment in zip(made_of, (0, language), strict=True):
        found, weights = ragged.list_of(segment), ragged.weights_of(segment).astype(np.float64)
        if len(found):
            rows.append(found)
            scores.append(weights / weights[0])
    if not rows:
        return _Merged(made_of, np.empty(0, dtype=np.int64), np.empty(0))
    unique, place = np.unique(np.concatenate(rows), return_inverse=True)
    best = np.zeros(len(unique))
    np.maximum.at(best, place, np.concatenate(scores))
    order = np.argsort(-best, kind="stable")
    return _Merged(made_of, unique[order], best[order])


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
