"""Rows of several views side by side: those of one entity make one wide record, checked for all views at once.

Of rows with a variable part the record holds what is fixed; such a view lies alone.
Shapes: N entities, V views, W words of eight bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from feature_repo.stores.packed.layout import Layout
from feature_repo.stores.packed.unpack import Unpacked

_NO_TAILS = np.empty(0, dtype=np.uint8), np.empty(0, dtype=np.int64)


@dataclass(slots=True)
class WideRows:
    """Rows of N entities in V views. Where `found` is False a row is blank: every bit null, its time no time."""

    layout: "WideLayout"
    words: NDArray[np.int64]
    """[N, W]"""
    event_us: NDArray[np.int64]
    """Event times, [N, V]; without meaning where not found."""
    found: NDArray[np.bool_] | None = None
    """[N, V]; None where all were found."""
    expired: NDArray[np.bool_] | None = None
    """Rows that were there but past their time to live, [N, V]; None where there were none."""
    num_foreign: int = 0
    """Rows of another layout or damaged ones, read as missing."""
    tails: tuple[NDArray[np.uint8], NDArray[np.int64]] = _NO_TAILS
    """Bytes that hold the variable parts, and where each row's begins, [N]."""

    def __len__(self) -> int:
        return len(self.words)

    @property
    def num_found(self) -> int:
        """Rows found, over all views."""
        return self.event_us.size if self.found is None else int(self.found.sum())

    def take(self, places: NDArray[np.int64]) -> "WideRows":
        """The rows of these entities, in their order."""
        found = None if self.found is None else self.found[places]
        expired = None if self.expired is None else self.expired[places]
        blob, starts = self.tails
        tails = blob, starts[places] if len(starts) else starts
        event_us = self.event_us[places]
        return WideRows(self.layout, self.words[places], event_us, found, expired, self.num_foreign, tails)

    def view(self, place: int) -> Unpacked:
        """The rows of one view."""
        records = self.words.view(self.layout.dtype)[:, 0][str(place)]
        found = np.ones(len(self), dtype=np.bool_) if self.found is None else self.found[:, place]
        return Unpacked(self.layout.layouts[place], records, found, *self.tails)


class WideLayout:
    """Where the rows of each view lie in the wide record, and what is checked of them."""

    def __init__(self, layouts: Sequence[Layout], ttls_us: Sequence[int]) -> None:
        """`ttls_us` are times to live in microseconds. A layout with a variable part has to be the only one."""
        self._is_variable = any(layout.variable for layout in layouts)
        if len(layouts) > 1 and self._is_variable:
            raise ValueError("a layout with a variable part is not the only one; give it a wide layout of its own")
        self.layouts = tuple(layouts)
        self.dtype = np.dtype([(str(place), layout.dtype) for place, layout in enumerate(layouts)])
        self.starts = [0, *accumulate(layout.size for layout in layouts)][:-1]
        """First byte of each view's row."""
        hashes, events = [start // 8 for start in self.starts], [start // 8 + 1 for start in self.starts]
        self._header_words = np.array([*hashes, *events], dtype=np.int64)
        self._hashes = np.array([layout.hash for layout in layouts], dtype=np.uint64).view(np.int64)
        self._ttls_us = np.array(ttls_us, dtype=np.int64)

    def unpack(self, raw: Sequence[bytes | None], now_us: int) -> WideRows:
        """Rows as they came from the store, entity by entity; missing, foreign, damaged and expired ones are blank."""
        rows = self._variable(raw) if self._is_variable else self._fixed(raw)
        cutoffs = now_us - self._ttls_us
        return rows if (rows.event_us >= cutoffs).all() else self._without_old(rows, cutoffs)

    def _whole(self, raw: Sequence[bytes | None]) -> WideRows | None:
        """Rows where every one is there and of its layout, which is the ordinary case; else None."""
        try:
            blob = b"".join(raw)  # type: ignore[arg-type]
        except TypeError:  # a missing row
            return None
        num_views = len(self.layouts)
        if len(blob) * num_views != len(raw) * self.dtype.itemsize:
            return None
        words, headers = self._words(blob)
        is_whole = (headers[:, :num_views] == self._hashes).all()
        return WideRows(self, words, headers[:, num_views:]) if is_whole else None

    def _words(self, blob: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The records [N, W], and of every view the layout hash and then the event time, [N, 2V]."""
        words = np.frombuffer(blob, dtype=np.int64).reshape(-1, self.dtype.itemsize // 8)
        return words, words.take(self._header_words, axis=1)

    def _fixed(self, raw: Sequence[bytes | None]) -> WideRows:
        whole = self._whole(raw)
        if whole is not None:
            return whole
        num_views = len(self.layouts)
        rows = list(raw)
        found = np.empty((len(raw) // num_views, num_views), dtype=np.bool_)
        for place, layout in enumerate(self.layouts):
            rows[place::num_views], found[:, place] = _of_layout(layout, raw[place::num_views])
        words, headers = self._words(b"".join(rows))  # type: ignore[arg-type]
        return WideRows(self, words, headers[:, num_views:], found, num_foreign=_num_foreign(raw, found))

    def _variable(self, raw: Sequence[bytes | None]) -> WideRows:
        layout = self.layouts[0]
        rows, is_found = _of_layout(layout, raw)
        found = np.array(is_found, dtype=np.bool_)
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        records = np.frombuffer(b"".join([row[: layout.size] for row in rows]), dtype=layout.dtype)
        is_broken = lengths != layout.size + records["ends"][:, -1].astype(np.int64)
        if is_broken.any():
            records = records.copy()
            records[is_broken] = layout.blank
            found &= ~is_broken
        words = records.view(np.int64).reshape(-1, layout.size // 8)
        tails = np.frombuffer(b"".join(rows), dtype=np.uint8), np.cumsum(lengths) - lengths + layout.size
        foreign = _num_foreign(raw, found)
        return WideRows(self, words, words[:, 1:2], found[:, None], num_foreign=foreign, tails=tails)

    def _without_old(self, rows: WideRows, cutoffs: NDArray[np.int64]) -> WideRows:
        """The same rows, those before the cutoffs [V] blank but for their event time."""
        expired = rows.event_us < cutoffs
        if rows.found is not None:
            expired &= rows.found
        if not expired.any():
            return rows
        words = rows.words.copy()
        records = words.view(self.dtype)[:, 0]
        for place, layout in enumerate(self.layouts):
            records[str(place)][expired[:, place]] = layout.blank
        words[:, self._header_words[len(self.layouts) :]] = rows.event_us
        found = ~expired if rows.found is None else rows.found & ~expired
        return replace(rows, words=words, found=found, expired=expired)


@lru_cache(maxsize=512)
def lone_layout(layout: Layout, ttl_us: int) -> WideLayout:
    """The wide layout of one view."""
    return WideLayout([layout], [ttl_us])


def _of_layout(layout: Layout, raw: Sequence[bytes | None]) -> tuple[list[bytes], list[bool]]:
    """The rows, those that are missing, of another layout or of a wrong length blank, and which are not."""
    stamp, size, blank = layout.stamp, layout.size, layout.blank.tobytes()
    if layout.variable:
        found = [r is not None and r.startswith(stamp) and len(r) >= size for r in raw]
    else:
        found = [r is not None and len(r) == size and r.startswith(stamp) for r in raw]
    return [r if ok else blank for r, ok in zip(raw, found, strict=True)], found  # type: ignore[misc]


def _num_foreign(raw: Sequence[bytes | None], found: NDArray[np.bool_]) -> int:
    return sum(r is not None for r in raw) - int(found.sum())
