"""Many packed rows as numpy columns, without a Python object per value."""

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
        tails: NDArray[np.uint8],
        starts: NDArray[np.int64],
    ) -> None:
        self.layout = layout
        self.records = records
        self.found = found
        self._tails = tails
        self._starts = starts

    def __len__(self) -> int:
        return len(self.records)

    @property
    def event_us(self) -> NDArray[np.int64]:
        """Event times, [N]; without meaning where there was no row."""
        return self.records["event"]

    @cached_property
    def nulls(self) -> NDArray[np.bool_]:
        """[N, F] in the order of the layout's fields."""
        bits = np.unpackbits(self.records["nulls"], axis=1, count=len(self.layout.fields) or None, bitorder="little")
        return bits.view(np.bool_)

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
