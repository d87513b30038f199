"""Is one model better than another on the same rows? Intervals of the difference by resampling users.

A user's rows stand or fall together, so users are drawn, not rows, and both models are judged on the same draw.
Legend: N rows, U users, R resamples. Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.metrics import auc_by_group

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Interval:
    """A difference, first minus second, and the range that 95 % of the resamples fall into."""

    difference: float
    low: float
    high: float


def draws(num_users: int, num_resamples: int, seed: int) -> NDArray[np.int64]:
    """How often each user is in each resample, [R, U]; every row sums to U."""
    rng = np.random.default_rng(seed)
    chances = np.full(num_users, 1 / num_users)
    counts: NDArray[np.int64] = rng.multinomial(num_users, chances, size=num_resamples)
    return counts


def compare(
    labels: Floats, first: Floats, second: Floats, user_ids: NDArray[np.int64], num_resamples: int = 300, seed: int = 0
) -> dict[str, Interval]:
    """`auc`, `ne` and `gauc` of two models' probabilities [N] on the same observed rows; NE is better when lower."""
    _, user = np.unique(user_ids, return_inverse=True)
    counts_RU = np.concatenate([np.ones((1, user.max() + 1)), draws(int(user.max()) + 1, num_resamples, seed)])
    found = {}
    for name, of in (("auc", _aucs), ("ne", _entropies), ("gauc", _gaucs)):
        difference_R = of(labels, first, user, counts_RU) - of(labels, second, user, counts_RU)
        low, high = np.nanquantile(difference_R[1:], [0.025, 0.975])
        found[name] = Interval(float(difference_R[0]), float(low), float(high))
    return found


def _aucs(labels: Floats, scores: Floats, user: NDArray[np.int64], counts_RU: Floats) -> NDArray[np.float64]:
    """AUC in each resample, ties half, [R]."""
    order = np.argsort(scores, kind="stable")
    is_positive, of_user = labels[order] > 0.5, user[order]
    ends = np.flatnonzero(np.r_[np.diff(np.asarray(scores)[order]) != 0, True])
    tie = np.searchsorted(ends, np.arange(len(order)))
    found = np.empty(len(counts_RU))
    for r, counts_U in enumerate(counts_RU):
        weights = counts_U[of_user]
        positives = np.bincount(tie, np.where(is_positive, weights, 0.0))
        negatives = np.bincount(tie, np.where(is_positive, 0.0, weights))
        below = np.cumsum(negatives) - negatives / 2
        pairs = positives.sum() * negatives.sum()
        found[r] = (positives * below).sum() / pairs if pairs else np.nan
    return found


def _entropies(labels: Floats, probabilities: Floats, user: NDArray[np.int64], counts_RU: Floats) -> Floats:
    """Normalised entropy in each resample, [R]."""
    p = np.clip(np.asarray(probabilities, dtype=np.float64), 1e-15, 1 - 1e-15)
    loss_U = np.bincount(user, -(labels * np.log(p) + (1 - labels) * np.log1p(-p)))
    rows_R, positives_R = counts_RU @ np.bincount(user), counts_RU @ np.bincount(user, labels)
    rate_R = positives_R / rows_R
    with np.errstate(divide="ignore", invalid="ignore"):
        base_R = -(rate_R * np.log(rate_R) + (1 - rate_R) * np.log1p(-rate_R))
        found: Floats = (counts_RU @ loss_U) / rows_R / base_R
    return found


def _gaucs(labels: Floats, scores: Floats, user: NDArray[np.int64], counts_RU: Floats) -> Floats:
    """AUC within users, weighted by positives, users of one class left out, in each resample, [R]."""
    values_U, positives_U, _ = auc_by_group(labels, scores, user)
    weights_U = np.where(np.isfinite(values_U), positives_U, 0.0)
    with np.errstate(invalid="ignore"):
        found: Floats = (counts_RU @ (weights_U * np.nan_to_num(values_U))) / (counts_RU @ weights_U)
    return found
