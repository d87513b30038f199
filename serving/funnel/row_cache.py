"""Columns by id, kept for a while: a ring of rows per column. Depends on nothing but numpy."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = dict[str, NDArray[Any]]
Read = Callable[[NDArray[np.int64]], Columns]
ReadAt = Callable[[NDArray[np.int64]], NDArray[np.float64]]

_FIRST_ROWS = 1024


@dataclass
class CacheCounts:
    """Rows asked for and rows that were there, since the start."""

    num_asked: int = 0
    num_hits: int = 0

    @property
    def hit_rate(self) -> float:
        """Share of rows that were there, 0 before the first was asked for."""
        return self.num_hits / self.num_asked if self.num_asked else 0.0


class RowCache:
    """At most `max_entries` rows; one older than `max_age_seconds` is read again, the oldest leave first."""

    def __init__(self, max_entries: int, max_age_seconds: float) -> None:
        self._max_entries = max_entries
        self.max_age_seconds = max_age_seconds
        self._slot_of: dict[int, int] = {}
        self._ids = np.full(min(_FIRST_ROWS, max_entries), -1, dtype=np.int64)
        self._read_at = np.full(len(self._ids), -np.inf)
        self._columns: Columns = {}
        self._next = 0
        self._lock = Lock()
        self.counts = CacheCounts()

    def __len__(self) -> int:
        return len(self._slot_of)

    def gather(self, ids: NDArray[np.int64], now_seconds: float, read: Read, read_at: ReadAt | None = None) -> Columns:
        """Columns of the ids in their order; `read` is asked once for the distinct ones not held or too old.

        `read_at`, asked after `read`, says how old what it gave is already; without it that is of now.

        Whatever `read` raises passes through and changes nothing.
        """
        unique, place = np.unique(ids, return_inverse=True)
        with self._lock:
            held = self._lookup(unique, now_seconds)
            is_held = held >= 0
            num_held = int(np.count_nonzero(is_held))
            self.counts.num_asked += len(unique)
            self.counts.num_hits += num_held
            if num_held == len(unique) and self._columns:
                slots = held[place]
                return {name: values[slots] for name, values in self._columns.items()}
            slots = held[is_held]
            hits = {name: values[slots] for name, values in self._columns.items()}
        missing = unique[~is_held]
        fresh = read(missing)
        with self._lock:
            self._insert(missing, fresh, now_seconds if read_at is None else read_at(missing))
        # Held rows first, then fresh ones: where each of `unique` lies among both.
        among = np.where(is_held, np.cumsum(is_held) - 1, num_held + np.cumsum(~is_held) - 1)[place]
        return {name: _joined(hits.get(name), values)[among] for name, values in fresh.items()}

    def read_at(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Instant at which each id's row was read, as `gather` was told it, -inf where none is held, [N]."""
        with self._lock:
            slots = np.fromiter((self._slot_of.get(i, -1) for i in ids.tolist()), dtype=np.int64, count=len(ids))
            return np.where(slots >= 0, self._read_at[slots], -np.inf)

    def drop(self, ids: NDArray[np.int64]) -> None:
        """Lets the ids be read again at their next use."""
        with self._lock:
            slots = [slot for i in ids.tolist() if (slot := self._slot_of.get(i)) is not None]
            self._read_at[slots] = -np.inf

    def clear(self) -> None:
        """Forgets every row."""
        with self._lock:
            self._slot_of.clear()
            self._ids[:] = -1
            self._next = 0

    def _lookup(self, ids: NDArray[np.int64], now_seconds: float) -> NDArray[np.int64]:
        """Slot of each id that is held and young enough, else -1."""
        slot_of = self._slot_of
        slots = np.fromiter((slot_of.get(i, -1) for i in ids.tolist()), dtype=np.int64, count=len(ids))
        is_old = (slots >= 0) & (np.abs(now_seconds - self._read_at[slots]) > self.max_age_seconds)
        slots[is_old] = -1
        return slots

    def _insert(self, ids: NDArray[np.int64], rows: Columns, read_at: NDArray[np.float64] | float) -> None:
        keep = slice(max(0, len(ids) - self._max_entries), None)
        ids = ids[keep]
        self._make_room(len(ids), rows)
        known = [self._slot_of.get(i, -1) for i in ids.tolist()]
        for place, (row_id, slot) in enumerate(zip(ids.tolist(), known, strict=True)):
            # An id that is held but was too old is written where it is.
            known[place] = slot if slot >= 0 and self._ids[slot] == row_id else self._claim(row_id)
        slots = np.array(known, dtype=np.int64)
        self._read_at[slots] = read_at[keep] if isinstance(read_at, np.ndarray) else read_at
        for name, values in rows.items():
            self._columns[name][slots] = values[keep]

    def _claim(self, row_id: int) -> int:
        """The next slot of the ring, taken from whoever had it."""
        slot = self._next
        self._next = (slot + 1) % self._max_entries
        if self._ids[slot] >= 0:
            self._slot_of.pop(int(self._ids[slot]), None)
        self._ids[slot] = row_id
        self._slot_of[row_id] = slot
        return slot

    def _make_room(self, num_new: int, rows: Columns) -> None:
        """Grows by doubling up to the limit; the ring wraps only when it is full."""
        wanted = min(self._max_entries, len(self._slot_of) + num_new)
        size = len(self._ids)
        while size < wanted:
            size = min(self._max_entries, size * 2)
        if size > len(self._ids):
            self._ids = _longer(self._ids, size, -1)
            self._read_at = _longer(self._read_at, size, -np.inf)
            self._columns = {name: _longer(column, size) for name, column in self._columns.items()}
        for name, values in rows.items():
            if name not in self._columns:
                self._columns[name] = np.zeros((size, *values.shape[1:]), dtype=values.dtype)


def _longer(column: NDArray[Any], size: int, fill: float = 0) -> NDArray[Any]:
    """The column with room behind it, which takes no memory while it holds zeros."""
    longer = np.zeros((size, *column.shape[1:]), dtype=column.dtype)
    longer[: len(column)] = column
    if fill:
        longer[len(column) :] = fill
    return longer


def _joined(held: NDArray[Any] | None, fresh: NDArray[Any]) -> NDArray[Any]:
    return fresh if held is None or len(held) == 0 else np.concatenate([held, fresh])
