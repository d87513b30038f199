"""The contract of a source, and what sources share."""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from serving.funnel.state import RequestState


class Found(NamedTuple):
    """Catalogue rows, best first, and the source's own scores, [N]."""

    rows: NDArray[np.int64]
    scores: NDArray[np.float64]
    ineligible: NDArray[np.int64]
    """Rows that would have been brought but may not be shown."""


class Source(Protocol):
    """Brings candidates. Every row is eligible and distinct, at most a quota of them, scores finite and falling."""

    @property
    def needs_features(self) -> bool:
        """True where the source can bring nothing without the user's online features."""
        ...

    def find(self, state: RequestState) -> Found: ...


def nothing() -> Found:
    """No posts."""
    none = np.empty(0, dtype=np.int64)
    return Found(none, np.empty(0, dtype=np.float64), none)


def first_eligible(rows: NDArray[np.int64], scores: NDArray[np.float64], state: RequestState, quota: int) -> Found:
    """The first `quota` eligible rows of a list that is already best first and without repeats."""
    # Most of a list is mostly eligible: what lies far behind the quota is looked at only where it has to be.
    end = min(len(rows), 4 * quota)
    is_eligible = state.is_eligible(rows[:end])
    while end < len(rows) and np.count_nonzero(is_eligible) < quota:
        end = min(len(rows), 4 * end)
        is_eligible = state.is_eligible(rows[:end])
    places = np.flatnonzero(is_eligible)[:quota]
    reached = int(places[-1]) + 1 if len(places) == quota else len(rows)
    return Found(rows[places], scores[places], rows[:reached][~is_eligible[:reached]])


def best_eligible(rows: NDArray[np.int64], scores: NDArray[np.float64], state: RequestState, quota: int) -> Found:
    """The `quota` eligible rows with the highest scores, of distinct rows in any order."""
    order = np.argsort(-scores, kind="stable")
    return first_eligible(rows[order], scores[order], state, quota)
