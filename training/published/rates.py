"""Smoothed rates that each row could have known: sums over earlier rows of the same key.

Legend: N rows, K keys.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]

NUM_FOLDS = 8


@dataclass(frozen=True)
class Sums:
    """Observed rows and the sum of their values, [N] each."""

    count: NDArray[np.float64]
    total: NDArray[np.float64]

    def rate(self, prior: Floats | float, strength: float) -> NDArray[np.float64]:
        """The mean, drawn to `prior` as if `strength` rows more had had it, [N]."""
        return (self.total + strength * prior) / (self.count + strength)


def sums_before(keys: Int64s, at: Int64s, values: Floats, as_of: Int64s) -> Sums:
    """For each row the rows of its key with `at` < its `as_of`; NaN values are not observed."""
    _, key = np.unique(keys, return_inverse=True)
    earliest = min(int(at.min()), int(as_of.min()))
    span = max(int(at.max()), int(as_of.max())) - earliest + 1
    place = key * span + (at - earliest)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], key * span)
    ends = np.searchsorted(place[order], key * span + (as_of - earliest))
    is_observed = np.isfinite(values)[order]
    counts = np.concatenate([[0.0], np.cumsum(is_observed)])
    totals = np.concatenate([[0.0], np.cumsum(np.where(is_observed, values[order], 0.0), dtype=np.float64)])
    return Sums(counts[ends] - counts[starts], totals[ends] - totals[starts])


def fold_of(user_ids: Int64s) -> Int64s:
    """The fold of each user, [N]: of one user always the same."""
    mixed = user_ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed >> np.uint64(61)).astype(np.int64)


def sums_of_others(keys: Int64s, folds: Int64s, values: Floats) -> Sums:
    """For each row the rows of its key from other users' folds: for rows without a time, so that none counts itself."""
    _, key = np.unique(keys, return_inverse=True)
    is_observed = np.isfinite(values)
    filled = np.where(is_observed, values, 0.0)
    of_fold = key * NUM_FOLDS + folds
    count, total = np.bincount(key, is_observed), np.bincount(key, filled)
    own_count = np.bincount(of_fold, is_observed, len(count) * NUM_FOLDS)
    own_total = np.bincount(of_fold, filled, len(count) * NUM_FOLDS)
    return Sums(count[key] - own_count[of_fold], total[key] - own_total[of_fold])
