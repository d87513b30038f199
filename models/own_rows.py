"""Rows that belong to one id each, and who has to leave when they are all taken.

An id may live in either of two buckets of eight rows, one cache line each, so that a lookup reads at most two lines
and needs no sorting, whatever the size. A row's place in the array is its number, so that the owners are all that a
bundle carries: 8 bytes a row.
Legend: N ids, R rows, K rows of a bucket. Source: Azar et al., Balanced allocations, STOC 1994.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.hashing import splitmix64

BUCKET_ROWS = 8
EMPTY = -1
_SECOND_CHOICE = np.uint64(0xD6E8FEB86659FD93)
_CHUNK = 1 << 16

Eviction = Literal["lru", "lfu"]


def whole_buckets(num_rows: int) -> int:
    """The most rows up to `num_rows` that fill buckets, at least one bucket."""
    return max(1, num_rows // BUCKET_ROWS) * BUCKET_ROWS


def no_owners(num_rows: int) -> NDArray[np.int64]:
    """Owners [R] of rows that are all free."""
    return np.full(whole_buckets(num_rows), EMPTY, dtype=np.int64)


def _buckets(ids_N: NDArray[np.int64], num_rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    num = np.uint64(num_rows // BUCKET_ROWS)
    first_N = splitmix64(ids_N.view(np.uint64))
    second_N = splitmix64(first_N ^ _SECOND_CHOICE)
    return (first_N % num).view(np.int64), (second_N % num).view(np.int64)


def rows_owned(owners: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """The row of each id, same shape, -1 where it has none."""
    flat = np.ascontiguousarray(ids).reshape(-1)
    found = np.empty(len(flat), dtype=np.int64)
    for start in range(0, len(flat), _CHUNK):  # the buckets read then stay in the processor's cache
        found[start : start + _CHUNK] = _rows_owned(owners, flat[start : start + _CHUNK])
    return found.reshape(ids.shape)


def _rows_owned(owners: NDArray[np.int64], ids_N: NDArray[np.int64]) -> NDArray[np.int64]:
    found_N = np.full(len(ids_N), -1, dtype=np.int64)
    owners_BK = owners.reshape(-1, BUCKET_ROWS)
    left = np.flatnonzero(ids_N >= 0)
    choices = _buckets(ids_N, len(owners))
    for bucket_N in choices:
        bucket = bucket_N[left]
        is_owner_NK = owners_BK[bucket] == ids_N[left, None]
        place, is_found = is_owner_NK.argmax(1), is_owner_NK.any(1)
        found_N[left[is_found]] = (bucket * BUCKET_ROWS + place)[is_found]
        left = left[~is_found]
    return found_N


@dataclass
class RowOwners:
    """Owners of R rows while a stream goes on."""

    owners: NDArray[np.int64]
    eviction: Eviction = "lru"
    counts: NDArray[np.int32] = field(init=False)
    """Occurrences of the owner since it has the row."""
    seen: NDArray[np.int32] = field(init=False)
    """Step in which the owner was last met; 0 for those that were there at the start."""

    def __post_init__(self) -> None:
        self.counts = np.zeros(len(self.owners), dtype=np.int32)
        self.seen = np.zeros(len(self.owners), dtype=np.int32)

    def admit(
        self,
        ids_N: NDArray[np.int64],
        counts_N: NDArray[np.int64],
        step: int,
        may_enter_N: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.int64]:
        """The rows that changed hands, whose weights and optimiser state are to start anew.

        `ids_N` are distinct, `counts_N` their occurrences in this step; steps count from 1. Only ids of `may_enter_N`
        get rows. Where both buckets are full an owner gives way: the one not met for longest (lru), or the one with
        the fewest occurrences per step since it was last met, if that is fewer than the newcomer's (lfu). Ids that
        came oftener go first; one that finds no row has none.
        """
        rows_N = rows_owned(self.owners, ids_N)
        is_owner = rows_N >= 0
        self.seen[rows_N[is_owner]] = step
        self.counts[rows_N[is_owner]] += counts_N[is_owner].astype(np.int32)
        is_new = ~is_owner & (ids_N >= 0)
        new = np.flatnonzero(is_new if may_enter_N is None else is_new & may_enter_N)
        new = new[np.argsort(-counts_N[new], kind="stable")]
        taken = [np.empty(0, np.int64)]
        # Few at a time beside the table's size: those who choose together do not see where the others go.
        size = min(_CHUNK, max(1, len(self.owners) // 32))
        for start in range(0, len(new), size):
            some = new[start : start + size]
            taken += self._settle(ids_N[some], counts_N[some], step)
        return np.unique(np.concatenate(taken))

    def _settle(self, ids_N: NDArray[np.int64], counts_N: NDArray[np.int64], step: int) -> list[NDArray[np.int64]]:
        both_NK = np.stack(_buckets(ids_N, len(self.owners)), axis=1)[:, :, None] * BUCKET_ROWS
        both_NK = (both_NK + np.arange(BUCKET_ROWS)).reshape(len(ids_N), 2 * BUCKET_ROWS)
        left, taken = np.arange(len(ids_N)), []
        while len(left):
            rows_NK = both_NK[left]
            is_free_NK = self.owners[rows_NK] == EMPTY
            worth_NK = np.where(is_free_NK, -1.0, self._worth(rows_NK, step))
            # The emptier of two buckets: nearly all rows are then taken before one overflows.
            is_second = is_free_NK[:, BUCKET_ROWS:].sum(1) > is_free_NK[:, :BUCKET_ROWS].sum(1)
            place = np.where(is_second, BUCKET_ROWS + worth_NK[:, BUCKET_ROWS:].argmin(1), worth_NK.argmin(1))
            row, worth = (found_NK[np.arange(len(left)), place] for found_NK in (rows_NK, worth_NK))
            able = np.flatnonzero(worth < (step if self.eviction == "lru" else counts_N[left]))
            # Several may want one row: the first gets it, the others look again.
            rows, first = np.unique(row[able], return_index=True)
            winners = left[able[first]]
            self.owners[rows], self.counts[rows], self.seen[rows] = ids_N[winners], counts_N[winners], step
            taken.append(rows)
            left = np.delete(left[able], first)
        return taken

    def _worth(self, rows_NK: NDArray[np.int64], step: int) -> NDArray[np.float64]:
        if self.eviction == "lru":
            return self.seen[rows_NK].astype(np.float64)
        return self.counts[rows_NK] / (1.0 + step - self.seen[rows_NK])
