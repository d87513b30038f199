"""The index as the funnel sees it: catalogue rows instead of post ids, and only eligible posts."""

import numpy as np
from numpy.typing import NDArray

from models.ann import PostIndex
from serving.snapshot import UNKNOWN, Catalogue

_SLACK = 1.3


class IndexSearch:
    """Widens the search until enough eligible posts were found or the whole index was."""

    def __init__(self, index: PostIndex, catalogue: Catalogue) -> None:
        self._index = index
        self._catalogue = catalogue

    def search(
        self, vector_D: NDArray[np.float32], k: int, is_eligible_P: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Catalogue rows and scores, best first, at most `k`."""
        count = len(self._index.post_ids)
        share = max(float(is_eligible_P.mean()) if len(is_eligible_P) else 0.0, 1e-6)
        width = min(count, int(k / share * _SLACK) + 1)
        while True:
            post_ids, scores = self._index.search(vector_D[None, :], max(1, width))
            rows = self._catalogue.rows_of(post_ids[0])
            is_kept = (rows != UNKNOWN) & is_eligible_P[rows] & np.isfinite(scores[0])
            if int(is_kept.sum()) >= k or width >= count:
                return rows[is_kept][:k], scores[0][is_kept][:k].astype(np.float64)
            width = min(count, width * 4)
