"""The index as the funnel sees it: catalogue rows instead of post ids, and only eligible posts."""

from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from models.ann import EligibleBits, PostIndex
from serving.funnel.eligible import EligiblePosts, SharedCodes
from serving.snapshot import UNKNOWN, Catalogue


class IndexSearch:
    """Asks the index for eligible posts; those that the catalogue does not know are none.

    What all requests share is packed once; a request then clears the bits of its own exclusions.
    """

    def __init__(self, index: PostIndex, catalogue: Catalogue, rows_N: NDArray[np.int64] | None = None) -> None:
        """`rows_N`: catalogue row of each post of the index, UNKNOWN to leave it out; by default as its id says."""
        self._index = index
        self._catalogue = catalogue
        self._rows_N = catalogue.rows_of(index.post_ids) if rows_N is None else rows_N
        self._is_known_N = self._rows_N != UNKNOWN
        self._place_of_P = _places(self._rows_N, len(catalogue))
        self._packed: WeakKeyDictionary[SharedCodes, EligibleBits] = WeakKeyDictionary()

    def lacking(self) -> NDArray[np.int64]:
        """Rows of the catalogue that the index does not hold."""
        return np.flatnonzero(self._place_of_P == UNKNOWN)

    def merged(self, rows: NDArray[np.int64], vectors_ND: NDArray[np.float32]) -> "IndexSearch":
        """A search over the same posts and these; where a post was there already, its new vector counts."""
        index = self._index.with_added(self._catalogue.post_ids[rows], vectors_ND)
        kept_N = np.where(np.isin(self._rows_N, rows), UNKNOWN, self._rows_N)
        return IndexSearch(index, self._catalogue, np.concatenate([kept_N, rows]))

    def search(
        self, vector_D: NDArray[np.float32], k: int, eligible: EligiblePosts
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Catalogue rows and scores, best first, at most `k`."""
        if not len(eligible.shared.codes):
            return np.empty(0, dtype=np.int64), np.empty(0)
        excluded = self._place_of_P[eligible.excluded]
        bits = self._shared_bits(eligible.shared).less(excluded[excluded != UNKNOWN])
        places, scores = self._index.search_rows(vector_D[None, :], k, bits)
        is_found = np.isfinite(scores[0])
        return self._rows_N[places[0][is_found]], scores[0][is_found].astype(np.float64)

    def _shared_bits(self, shared: SharedCodes) -> EligibleBits:
        bits = self._packed.get(shared)
        if bits is None:
            bits = EligibleBits.of((shared.codes == 0)[self._rows_N] & self._is_known_N)
            self._packed[shared] = bits
        return bits


def _places(rows_N: NDArray[np.int64], num_posts: int) -> NDArray[np.int64]:
    """Place in the index of each row of the catalogue, UNKNOWN for a post that the index does not hold, [P]."""
    places_P = np.full(num_posts, UNKNOWN, dtype=np.int64)
    is_known = rows_N != UNKNOWN
    places_P[rows_N[is_known]] = np.flatnonzero(is_known)
    return places_P
