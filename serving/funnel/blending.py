"""Several ranked lists made one, by weighted reciprocal rank fusion. Depends on nothing but numpy.

Source: Cormack, Clarke, Büttcher, "Reciprocal Rank Fusion", SIGIR 2009, with a weight per list.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serving.funnel.candidates import Candidates, best_first


def blend(
    lists: Sequence[tuple[int, float, NDArray[np.int64]]], rank_constant: float, max_candidates: int
) -> tuple[Candidates, NDArray[np.int64]]:
    """The best `max_candidates` posts of all lists, best first, and the rows that found no room.

    `lists` holds (source number, weight, rows best first without repeats). A post's score is the sum of
    weight / (rank_constant + rank) over the lists that brought it, and it keeps the bit of each of them.
    """
    if not lists or not any(len(rows) for _, _, rows in lists):
        return Candidates.none(), np.empty(0, dtype=np.int64)
    rows = np.concatenate([rows for _, _, rows in lists])
    scores = np.concatenate([weight / (rank_constant + np.arange(len(r))) for _, weight, r in lists])
    bits = np.concatenate([np.full(len(r), 1 << number, dtype=np.uint32) for number, _, r in lists])
    unique, place = np.unique(rows, return_inverse=True)
    total = np.bincount(place, weights=scores, minlength=len(unique)).astype(np.float64)
    union = np.zeros(len(unique), dtype=np.uint32)
    np.bitwise_or.at(union, place, bits)
    order = best_first(total)
    kept, left = order[:max_candidates], order[max_candidates:]
    return Candidates(unique[kept], union[kept], {"blend": total[kept]}), unique[left]
