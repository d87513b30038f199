"""Many packed rows as numpy columns, without a Python object per value."""

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from feature_repo.stores.packed.layout import Layout
from feature_repo.stores.packed.pack import ramps


class Unpacked:
    """N rows of one layout; where `found` is False everything is null."""

    def __init__(
        self,
        layout: Layout,
        records: np.ndarray,
        found: NDArray[np.bool_],
        num_foreign: int,
        tails: NDArray[np.uint8],
        starts: NDArray[np.int64],
    ) -> None:
        self.layout = layout
        self.records = records
        self.found = found
        self.num_foreign = num_foreign
        """Rows of another layout or damaged ones, read as missing."""
        self._tails = tails
        self._starts = starts

    def __len__(self) -> int:
        return len(self.records)

    @property
    def event_us(self) -> NDArray[np.int64]:
        """Event times, [N]; without meaning where not found."""
        return self.records["event"]

    @cached_property
    def nulls(self) -> NDArray[np.bool_]:
        """[N, F] in the order of the layout's fields."""
        bits = np.unpackbits(self.records["nulls"], axis=1, count=len(self.layout.fields) or None, bitorder="little")
        return bits.view(np.bool_)

    def without(self, mask: NDArray[np.bool_]) -> "Unpacked":
        """The same rows, those of `mask` missing."""
        records = self.records.copy()
        records[mask] = self.layout.blank
        return Unpacked(self.layout, records, self.found & ~mask, self.num_foreign, self._tails, self._starts)

    def take(self, rows: NDArray[np.int64]) -> "Unpacked":
        """The rows of these numbers, in their order."""
        starts = self._starts[rows] if len(self._starts) else self._starts
        return Unpacked(self.layout, self.records[rows], self.found[rows], self.num_foreign, self._tails, starts)

    def scalars(self, name: str) -> np.ndarray:
        """Values of a scalar, [N]; NaN or 0 where null."""
        return self.records[self.layout.by_name[name].kind.dtype][:, self.layout.columns[name]]

    def numbers(self, name: str) -> tuple[np.ndarray, NDArray[np.int64]]:
        """Items of a list of numbers, flat, and how many each row has, [N]."""
        field = self.layout.by_name[name]
        if field.is_fixed_list:
            counts = self.records["counts"][:, self.layout.fixed_lists.index(field)].astype(np.int64)
            items = self.records[self.layout.list_name(field)]
            return items[np.arange(field.length) < counts[:, None]], counts
        data, sizes = self.texts(name)
        items = data.view(field.kind.dtype)
        return items, sizes // items.dtype.itemsize

    def texts(self, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Bytes of a variable field, flat, and how many each row has, [N]."""
        index = self.layout.variable.index(self.layout.by_name[name])
        ends = self.records["ends"].astype(np.int64)
        begins = ends[:, index - 1] if index else np.zeros(len(ends), dtype=np.int64)
        sizes = ends[:, index] - begins
        places = np.repeat(self._starts + begins, sizes) + ramps(sizes)
        return self._tails[places], sizes

    def padded(self, name: str, length: int, pad: float) -> np.ndarray:
        """Lists of numbers as [N, length]: cut when longer, padded when shorter or null."""
        field = self.layout.by_name[name]
        if field.is_fixed_list and field.length == length:
            counts = self.records["counts"][:, self.layout.fixed_lists.index(field)]
            items = self.records[self.layout.list_name(field)]
            return np.where(np.arange(length) < counts[:, None], items, np.asarray(pad, dtype=items.dtype))
        items, counts = self.numbers(name)
        out = np.full((len(self), length), pad, dtype=items.dtype)
        places, rows = ramps(counts), np.repeat(np.arange(len(self)), counts)
        kept = places < length
        out[rows[kept], places[kept]] = items[kept]
        return out

    def strings(self, name: str) -> list[bytes]:
        """Bytes of a variable field as one object per row."""
        data, sizes = self.texts(name)
        blob, bounds = data.tobytes(), [0, *np.cumsum(sizes).tolist()]
        return [blob[a:b] for a, b in pairwise(bounds)]


def unpack_rows(layout: Layout, raw: Sequence[bytes | None]) -> Unpacked:
    """Rows [N] as they came from the store; None, other layouts and damaged rows are not found."""
    if layout.variable:
        return _unpack_variable(layout, raw)
    nothing = np.empty(0, dtype=np.uint8), np.empty(0, dtype=np.int64)
    records = _all_whole(layout, raw)
    if records is not None:
        return Unpacked(layout, records, np.ones(len(raw), dtype=bool), 0, *nothing)
    found = _of_layout(layout, raw)
    blank = layout.blank.tobytes()
    rows: list[bytes] = [r if ok and r and len(r) == layout.size else blank for r, ok in zip(raw, found, strict=True)]
    found &= np.fromiter((r is not blank for r in rows), dtype=bool, count=len(rows))
    records = np.frombuffer(b"".join(rows), dtype=layout.dtype)
    return Unpacked(layout, records, found, _num_foreign(raw, found), *nothing)


def _all_whole(layout: Layout, raw: Sequence[bytes | None]) -> np.ndarray | None:
    """Records where every row is there and of this layout, which is the ordinary case; else None."""
    try:
        blob = b"".join(raw)  # type: ignore[arg-type]
    except TypeError:  # a missing row
        return None
    if len(blob) != len(raw) * layout.size:
        return None
    records = np.frombuffer(blob, dtype=layout.dtype)
    return records if (records["layout"] == layout.hash).all() else None


def _unpack_variable(layout: Layout, raw: Sequence[bytes | None]) -> Unpacked:
    size, blank = layout.size, layout.blank.tobytes()
    found = _of_layout(layout, raw)
    rows: list[bytes] = [r if ok else blank for r, ok in zip(raw, found, strict=True)]  # type: ignore[misc]
    records = np.frombuffer(b"".join([r[:size] for r in rows]), dtype=layout.dtype)
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    broken = lengths != size + records["ends"][:, -1].astype(np.int64)
    if broken.any():
        records = records.copy()
        records[broken] = layout.blank
        found &= ~broken
    tails = np.frombuffer(b"".join(rows), dtype=np.uint8)
    return Unpacked(layout, records, found, _num_foreign(raw, found), tails, np.cumsum(lengths) - lengths + size)


def _of_layout(layout: Layout, raw: Sequence[bytes | None]) -> NDArray[np.bool_]:
    stamp, size = layout.stamp, layout.size
    fits = (r is not None and r.startswith(stamp) and len(r) >= size for r in raw)
    return np.fromiter(fits, dtype=bool, count=len(raw))


def _num_foreign(raw: Sequence[bytes | None], found: NDArray[np.bool_]) -> int:
    return sum(r is not None for r in raw) - int(found.sum())
