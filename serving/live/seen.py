"""What users have seen, in memory that is bounded per user and for all of them. Depends on nothing but numpy.

The last posts of a user are kept exactly and leave the search itself; older ones of a user who saw more fade into a
Bloom filter that what the search found is held against. Source: Bloom, "Space/time trade-offs in hash coding with
allowable errors", CACM 1970; double hashing: Kirsch, Mitzenmacher, ESA 2006.
"""

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

import numpy as np
from numpy.typing import NDArray

RECENT = 512
"""Posts kept exactly per user."""
GENERATION = 2_048
"""Posts in a Bloom filter before the next one begins; a user has at most two."""
BITS = 32_768
NUM_HASHES = 8
FALSE_POSITIVES = 2 * (1 - np.exp(-NUM_HASHES * GENERATION / BITS)) ** NUM_HASHES
"""Share of unseen posts that two full filters take for seen: 0.11 %. None for a user within RECENT."""
MAX_USERS = 4_096
_SEEN = np.dtype([("row", np.int32), ("at", np.float64)])
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


class SeenPosts:
    """What one user saw, up to `place` of the journal."""

    def __init__(self) -> None:
        self.place = 0
        # Rows and when, oldest first; replaced as a whole, because requests read while another writes.
        self._ring = np.empty(0, dtype=_SEEN)
        self._filters: list[NDArray[np.uint8]] = []
        self._num_newest = 0
        self._newest_at = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays held."""
        return int(self._ring.nbytes + sum(f.nbytes for f in self._filters))

    def add(self, rows: NDArray[np.int64], at: NDArray[np.float64]) -> None:
        """Takes posts seen at unix seconds `at`, oldest first."""
        for start in range(0, len(rows), RECENT):
            self._add(rows[start : start + RECENT], at[start : start + RECENT])

    def recent(self, since: float) -> NDArray[np.int64]:
        """Rows of the last posts that were seen at or after `since`."""
        ring = self._ring
        return ring["row"][ring["at"] >= since].astype(np.int64)

    def faded(self, since: float) -> tuple[NDArray[np.uint8], ...]:
        """Filters of older posts, of which some were seen at or after `since`."""
        return tuple(self._filters) if self._newest_at >= since else ()

    def _add(self, rows: NDArray[np.int64], at: NDArray[np.float64]) -> None:
        fresh = np.empty(len(rows), dtype=_SEEN)
        fresh["row"], fresh["at"] = rows, at
        ring = np.concatenate([self._ring, fresh])
        surplus = max(0, len(ring) - RECENT)
        if surplus:
            self._fade(ring["row"][:surplus], float(ring["at"][:surplus].max()))
        self._ring = ring[surplus:].copy()

    def _fade(self, rows: NDArray[np.int32], at: float) -> None:
        if not self._filters or self._num_newest + len(rows) > GENERATION:
            self._filters = [*self._filters[-1:], np.zeros(BITS // 8, dtype=np.uint8)]
            self._num_newest = 0
        bits = _bits(rows.astype(np.int64)).ravel()
        newest = self._filters[-1].copy()  # a request may be reading the old one
        np.bitwise_or.at(newest, bits >> 3, np.left_shift(np.uint8(1), (bits & 7).astype(np.uint8)))
        self._filters = [*self._filters[:-1], newest]
        self._num_newest += len(rows)
        self._newest_at = max(self._newest_at, at)


class SeenFilter:
    """`SeenPosts` of the users who came last, at most `max_users`. Threads may share it."""

    def __init__(self, max_users: int = MAX_USERS) -> None:
        self._max_users = max_users
        self._users: OrderedDict[int, SeenPosts] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._users)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays of all users."""
        with self._lock:
            return sum(seen.nbytes for seen in self._users.values())

    def of(self, user_id: int) -> SeenPosts:
        """The user's; the user who came longest ago leaves when there are too many."""
        with self._lock:
            seen = self._users.setdefault(user_id, SeenPosts())
            self._users.move_to_end(user_id)
            while len(self._users) > self._max_users:
                self._users.popitem(last=False)
            return seen

    def add(self, seen: SeenPosts, places: NDArray[np.int64], rows: NDArray[np.int64], at: NDArray[np.float64]) -> None:
        """Takes what lies behind the place that `seen` has reached; -1 as a row is no post."""
        with self._lock:
            is_new = (places > seen.place) & (rows >= 0)
            seen.add(rows[is_new], at[is_new])
            seen.place = max(seen.place, int(places.max(initial=0)))

    def forget(self, user_id: int) -> None:
        """Drops what the user saw."""
        with self._lock:
            self._users.pop(user_id, None)


def matcher(filters: tuple[NDArray[np.uint8], ...]) -> Callable[[NDArray[np.int64]], NDArray[np.bool_]] | None:
    """Whether each row, [N], is in one of the filters; None for no filters."""
    if not filters:
        return None

    def matches(rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        bits = _bits(rows)
        found = np.zeros(len(rows), dtype=np.bool_)
        for held in filters:
            found |= ((held[bits >> 3] >> (bits & 7).astype(np.uint8)) & 1).all(axis=1)
        return found

    return matches


def _bits(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bits of each row, [N, NUM_HASHES]."""
    mixed = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX[0]
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX[1]
    mixed ^= mixed >> np.uint64(31)
    first, step = mixed & np.uint64(0xFFFFFFFF), (mixed >> np.uint64(32)) | np.uint64(1)
    numbers = np.arange(NUM_HASHES, dtype=np.uint64)
    return ((first[:, None] + numbers * step[:, None]) % np.uint64(BITS)).astype(np.int64)
