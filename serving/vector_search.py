"""The index as the funnel sees it: catalogue rows instead of post ids, and only eligible posts."""

import numpy as np
from numpy.typing import NDArray

from models.ann import PostIndex
from serving.snapshot import UNKNOWN, Catalogue


class IndexSearch:
    """Asks the index for eligible posts; those that the catalogue does not know are none."""

    def __init__(self, index: PostIndex, catalogue: Catalogue) -> None:
        self._index = index
        self._catalogue = catalogue
        self._rows_N = catalogue.rows_of(index.post_ids)

    def merged(self, rows: NDArray[np.int64], vectors_ND: NDArray[np.float32]) -> "IndexSearch":
        """A search over the same posts and these; where a post was there already, its new vector counts."""
        found = IndexSearch.__new__(IndexSearch)
        found._catalogue = self._catalogue
        found._index = self._index.with_added(self._catalogue.post_ids[rows], vectors_ND)
        outdated = np.isin(self._rows_N, rows)
        found._rows_N = np.concatenate([np.where(outdated, UNKNOWN, self._rows_N), rows])
        return found

    def search(
        self, vector_D: NDArray[np.float32], k: int, is_eligible_P: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Catalogue rows and scores, best first, at most `k`."""
        if not len(is_eligible_P):
            return np.empty(0, dtype=np.int64), np.empty(0)
        eligible_N = is_eligible_P[self._rows_N] & (self._rows_N != UNKNOWN)
        post_ids, scores = self._index.search(vector_D[None, :], k, eligible_N)
        is_found = np.isfinite(scores[0])
        return self._catalogue.rows_of(post_ids[0][is_found]), scores[0][is_found].astype(np.float64)
