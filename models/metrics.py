"""Offline metrics, vectorised; all take plain arrays and ignore nothing silently.

Legend: N rows, Q queries of a retrieval, K results. A metric that is undefined (one class only, no
rows) is NaN.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


def _ranks(scores: Floats, groups: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Average rank from 1 within its group [N], ties shared; and the groups as 0..G-1 [N]."""
    _, group = np.unique(groups, return_inverse=True)
    order = np.lexsort((scores, group))
    group_sorted, score_sorted = group[order], scores[order]
    is_new_group = np.r_[True, group_sorted[1:] != group_sorted[:-1]]
    is_new_tie = is_new_group | np.r_[True, score_sorted[1:] != score_sorted[:-1]]
    starts = np.flatnonzero(is_new_tie)
    ends = np.r_[starts[1:], len(scores)]
    tie = np.cumsum(is_new_tie) - 1
    group_start = np.flatnonzero(is_new_group)[np.cumsum(is_new_group) - 1]
    ranks = np.empty(len(scores), dtype=np.float64)
    ranks[order] = (starts[tie] + ends[tie] + 1) / 2.0 - group_start
    return ranks, group.astype(np.int64)


def auc_by_group(
    labels: Floats, scores: Floats, groups: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Per group in order of its id: AUC (NaN with one class), positives, rows."""
    if len(labels) == 0:
        return np.empty(0), np.empty(0), np.empty(0)
    ranks, group = _ranks(np.asarray(scores), groups)
    is_positive = np.asarray(labels) > 0.5
    rows = np.bincount(group).astype(np.float64)
    positives = np.bincount(group, weights=is_positive).astype(np.float64)
    rank_sum = np.bincount(group, weights=ranks * is_positive)
    pairs = positives * (rows - positives)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.where(pairs > 0, (rank_sum - positives * (positives + 1) / 2) / pairs, np.nan)
    return values, positives, rows


def auc(labels: Floats, scores: Floats) -> float:
    """Chance that a positive scores above a negative, ties half."""
    values, _, _ = auc_by_group(labels, scores, np.zeros(len(labels), dtype=np.int64))
    return float(values[0]) if len(values) else float("nan")


def gauc(
    labels: Floats, scores: Floats, groups: NDArray[np.int64], weight: Literal["positives", "rows"] = "positives"
) -> float:
    """Mean AUC within groups (users), weighted; groups with one class are left out."""
    values, positives, rows = auc_by_group(labels, scores, groups)
    is_defined = np.isfinite(values)
    weights = (positives if weight == "positives" else rows)[is_defined]
    return float(np.average(values[is_defined], weights=weights)) if is_defined.any() else float("nan")


def log_loss(labels: Floats, probabilities: Floats, weights: Floats | None = None) -> float:
    """Mean negative log likelihood in nats; probabilities are kept 1e-15 away from 0 and 1."""
    p = np.clip(np.asarray(probabilities, dtype=np.float64), 1e-15, 1 - 1e-15)
    y = np.asarray(labels, dtype=np.float64)
    return float(np.average(-(y * np.log(p) + (1 - y) * np.log1p(-p)), weights=weights)) if len(y) else float("nan")


def normalised_entropy(labels: Floats, probabilities: Floats, weights: Floats | None = None) -> float:
    """Log loss over the log loss of always predicting the base rate; below 1 is better than that.

    Source: He et al., Practical lessons from predicting clicks on ads, ADKDD 2014.
    """
    if len(labels) == 0:
        return float("nan")
    rate = float(np.average(labels, weights=weights))
    if not 0.0 < rate < 1.0:
        return float("nan")
    base = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
    return log_loss(labels, probabilities, weights) / float(base)


def calibration(labels: Floats, probabilities: Floats, weights: Floats | None = None) -> float:
    """Mean prediction over mean outcome; 1 is calibrated, above predicts too much."""
    if len(labels) == 0:
        return float("nan")
    outcome = float(np.average(labels, weights=weights))
    return float(np.average(probabilities, weights=weights)) / outcome if outcome > 0 else float("nan")


def ndcg_at_k(
    labels: Floats,
    scores: Floats,
    groups: NDArray[np.int64],
    k: int,
    without_positives: Literal["skip", "zero"] = "skip",
) -> float:
    """Mean over groups of DCG@k over ideal DCG@k, gain = label, discount 1 / log2(place + 1).

    Equal scores keep the order of the rows. Groups without positives are skipped or count 0.
    """
    if len(labels) == 0:
        return float("nan")
    _, group = np.unique(groups, return_inverse=True)
    gains = np.asarray(labels, dtype=np.float64)

    def dcg(keys: Floats) -> NDArray[np.float64]:
        order = np.lexsort((np.arange(len(group)), -np.asarray(keys, dtype=np.float64), group))
        sorted_group = group[order]
        starts = np.flatnonzero(np.r_[True, sorted_group[1:] != sorted_group[:-1]])
        place = np.arange(len(group)) - starts[sorted_group] + 1
        discounted = np.where(place <= k, gains[order] / np.log2(place + 1), 0.0)
        return np.bincount(sorted_group, weights=discounted).astype(np.float64)

    ideal, reached = dcg(gains), dcg(scores)
    has_positives = ideal > 0
    values = np.where(has_positives, reached / np.where(has_positives, ideal, 1.0), 0.0)
    counted = values if without_positives == "zero" else values[has_positives]
    return float(counted.mean()) if len(counted) else float("nan")


def recall_at_k(found_QK: NDArray[np.int64], relevant: Sequence[NDArray[np.int64]], k: int) -> float:
    """Mean over queries of the share of relevant ids among the first k found; queries without any are skipped."""
    shares = [
        len(np.intersect1d(row[:k], ids)) / len(np.unique(ids))
        for row, ids in zip(found_QK, relevant, strict=True)
        if len(ids)
    ]
    return float(np.mean(shares)) if shares else float("nan")


def head_metrics(
    labels_NH: Floats,
    probabilities_NH: Floats,
    heads: Sequence[str],
    user_ids: NDArray[np.int64] | None = None,
    weights: Floats | None = None,
) -> dict[str, float]:
    """auc, ne, calibration, gauc (with `user_ids`) and rate per head as `auc_click` and so on; observed rows only."""
    found: dict[str, float] = {}
    for h, head in enumerate(heads):
        rows = np.flatnonzero(~np.isnan(labels_NH[:, h]))
        y, p = labels_NH[rows, h], probabilities_NH[rows, h]
        w = None if weights is None else weights[rows]
        found[f"auc_{head}"] = auc(y, p)
        found[f"ne_{head}"] = normalised_entropy(y, p, w)
        found[f"calibration_{head}"] = calibration(y, p, w)
        if user_ids is not None:
            found[f"gauc_{head}"] = gauc(y, p, user_ids[rows])
        found[f"rate_{head}"] = float(np.average(y, weights=w)) if len(y) else float("nan")
    return found


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """The defined ones; JSON has no NaN."""
    return {name: float(value) for name, value in metrics.items() if np.isfinite(value)}
