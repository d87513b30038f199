"""Which features a fitted second stage leans on: how much worse it gets when one is shuffled among rows."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.metrics import normalised_entropy

Columns = Mapping[str, NDArray[Any]]


def permutation_importance(
    predict: Callable[[Columns], NDArray[np.float64]],
    columns: Columns,
    labels_NH: NDArray[np.float32],
    names: Sequence[str],
    heads: Sequence[int],
    rng: np.random.Generator,
) -> dict[str, float]:
    """Rise of the mean NE over `heads` per shuffled feature; about 0 for a feature that is not used.

    `predict` gives probabilities [N, H] of columns. One permutation of rows serves every feature.
    """
    order = rng.permutation(len(labels_NH))
    base = _mean_entropy(labels_NH, predict(columns), heads)
    return {
        name: _mean_entropy(labels_NH, predict({**columns, name: columns[name][order]}), heads) - base for name in names
    }


def _mean_entropy(labels_NH: NDArray[np.float32], probabilities_NH: NDArray[np.float64], heads: Sequence[int]) -> float:
    entropies = []
    for h in heads:
        is_known = ~np.isnan(labels_NH[:, h])
        entropies.append(normalised_entropy(labels_NH[is_known, h], probabilities_NH[is_known, h]))
    return float(np.nanmean(entropies)) if entropies else float("nan")
