"""The truth in the place of a model: rankers that know every probability, plugged into the real funnel.

The oracle is the full funnel with these rankers over every eligible post; leaving one real stage in
place at a time tells what that stage costs.
"""

import numpy as np
from numpy.typing import NDArray

from core.schema import HEADS
from events.synthetic.truth import Truth
from serving.funnel.state import RequestState


class TrueProbabilities:
    """True probability of every engagement for the posts of a request; a second stage by its protocol."""

    version = "truth"
    heads = HEADS

    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self.last_rows: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        """Catalogue rows of the last request."""

    def probabilities(self, state: RequestState, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """[N, H] for catalogue rows, at the serve time."""
        self.last_rows = rows
        post_ids = state.snapshot.catalogue.post_ids[rows]
        user_ids = np.full(len(rows), state.request.user_id, dtype=np.int64)
        return self._truth.probabilities(user_ids, post_ids, state.at_seconds)


class TrueValues:
    """True expected value as the score of a first stage by its protocol."""

    version = "truth"

    def __init__(self, truth: Truth, weights: NDArray[np.float64]) -> None:
        """`weights` of the value model, one per head of core.schema.HEADS."""
        self._probabilities = TrueProbabilities(truth)
        self._weights = weights
        self.last_values: NDArray[np.float64] = np.empty(0)
        """Value of each of `last_rows`."""

    @property
    def last_rows(self) -> NDArray[np.int64]:
        """Catalogue rows of the last request."""
        return self._probabilities.last_rows

    def scores(self, state: RequestState, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Expected value [N] of each catalogue row."""
        self.last_values = self._probabilities.probabilities(state, rows) @ self._weights
        return self.last_values
