"""How often ids occurred, in one byte per counter: which ids are too rare for rows of their own.

Legend: N ids, C counters. Source: Cormode and Muthukrishnan, An improved data stream summary: the count-min sketch,
Journal of Algorithms 2005.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.hashing import splitmix64

MOST = 255
_ROWS = (np.uint64(0xA0761D6478BD642F), np.uint64(0xE7037ED1A0B428DB))


@dataclass(frozen=True)
class CountSketch:
    """Occurrences of ids up to 255, never too few and seldom too many. `counters` [2, C] uint8."""

    counters: NDArray[np.uint8]

    @staticmethod
    def sized_for(num_ids: int) -> "CountSketch":
        """Empty, with about four counters per id."""
        return CountSketch(np.zeros((2, 1 << max(10, (2 * num_ids - 1).bit_length())), dtype=np.uint8))

    def _places(self, ids_N: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        mask = np.uint64(self.counters.shape[1] - 1)
        return [(splitmix64(ids_N.view(np.uint64) ^ salt) & mask).view(np.int64) for salt in _ROWS]

    def add(self, ids_N: NDArray[np.int64], counts_N: NDArray[np.int64]) -> None:
        """Counts `ids_N`, each id once in it, `counts_N` times more."""
        more_N = np.minimum(counts_N, MOST)
        for row_C, place_N in zip(self.counters, self._places(ids_N), strict=True):
            # Ids that share a counter add up.
            places, which = np.unique(place_N, return_inverse=True)
            total = row_C[places] + np.bincount(which, weights=more_N, minlength=len(places))
            row_C[places] = np.minimum(total, MOST).astype(np.uint8)

    def counts(self, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Occurrences of each id, same shape."""
        flat = np.ascontiguousarray(ids).reshape(-1)
        first, second = (row_C[places] for row_C, places in zip(self.counters, self._places(flat), strict=True))
        counts: NDArray[np.uint8] = np.minimum(first, second).reshape(ids.shape)
        return counts
