"""The value model: one score from the probabilities of all engagements. Depends on nothing but numpy."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def weight_vector(heads: Sequence[str], weights: Mapping[str, float]) -> NDArray[np.float64]:
    """Weight of each head in the order of the model's outputs, 0 for one without weight, [H]."""
    return np.array([weights.get(head, 0.0) for head in heads], dtype=np.float64)


def values(probabilities: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Expected value of showing each post: sum over heads of weight × probability, [N]. NaN where one is missing."""
    weighted = np.flatnonzero(weights)
    return np.asarray(probabilities[:, weighted] @ weights[weighted], dtype=np.float64)
