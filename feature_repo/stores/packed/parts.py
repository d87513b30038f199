"""Which columns of wide records go where in a block: planned once per reader, then a few copies per read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_repo.stores.packed.blocks import FLOATS, INTS, FeatureBlock, ViewBlocks
from feature_repo.stores.packed.wide import WideLayout, WideRows

Index = slice | NDArray[np.int64]


@dataclass(frozen=True)
class _Move:
    """Columns of the wide record, read as one type, that go to columns of a block."""

    dtype: str
    source: Index
    target: Index


class Part:
    """Views that are fetched together: those of fixed length that share their keys, or one with a variable part."""

    def __init__(self, views: Mapping[int, ViewBlocks]) -> None:
        """`views` by their place in the reader's choice."""
        self.places = tuple(views)
        self.wide = WideLayout([v.layout for v in views.values()], [v.ttl_us for v in views.values()])
        placed = list(zip(views.values(), self.wide.starts, strict=True))
        self._floats = [m for v, at in placed for m in _moves(v, at, v.float_names, FLOATS, v.first_float)]
        self._ints = [m for v, at in placed for m in _moves(v, at, v.int_names, INTS, v.first_int)]
        self._null_bytes, self._nulls = _null_moves(placed)
        self._ages = _index(self.places)
        self._with_lists = [(i, v) for i, v in enumerate(views.values()) if v.sequence_names or v.text_names]

    def fill(self, block: FeatureBlock, rows: WideRows, now_us: int) -> None:
        """Writes the rows' values into `block`."""
        for move in self._floats:
            block.floats[:, move.target] = rows.words.view(move.dtype)[:, move.source]
        for move in self._ints:
            block.ints[:, move.target] = rows.words.view(move.dtype)[:, move.source]
        null_bytes = rows.words.view(np.uint8).take(self._null_bytes, axis=1)
        bits = np.unpackbits(null_bytes, axis=1, bitorder="little").view(np.bool_)
        for move in self._nulls:
            block.nulls[:, move.target] = bits[:, move.source]
        ages = (now_us - rows.event_us) / 1e6
        block.ages[:, self._ages] = ages if rows.found is None else np.where(rows.found, ages, np.nan)
        for place, view in self._with_lists:
            view.fill_lists(block, rows.view(place))


def _moves(view: ViewBlocks, start: int, names: Sequence[str], groups: Sequence[str], first: int) -> list[_Move]:
    """Moves of one view's scalars, a type at a time; `start` is the first byte of its row, `first` its first column."""
    moves = []
    for group in groups:
        chosen = [(i, n) for i, n in enumerate(names, first) if view.layout.by_name[n].kind.dtype == group]
        if chosen:
            offset = (start + view.layout.dtype.fields[group][1]) // np.dtype(group).itemsize
            sources = _index([offset + view.layout.columns[n] for _, n in chosen])
            moves.append(_Move(group, sources, _index([i for i, _ in chosen])))
    return moves


def _null_moves(placed: Sequence[tuple[ViewBlocks, int]]) -> tuple[NDArray[np.int64], list[_Move]]:
    """Bytes of the wide record that hold null bits, and of each view which of those bits go where."""
    places: list[int] = []
    moves = []
    for view, start in placed:
        bits = [8 * len(places) + view.layout.bits[n] for n in view.features]
        moves.append(_Move("?", _index(bits), slice(view.first_name, view.first_name + len(bits))))
        form, offset = view.layout.dtype.fields["nulls"][:2]
        places += range(start + offset, start + offset + form.itemsize)
    return np.array(places, dtype=np.int64), moves


def _index(places: Sequence[int]) -> Index:
    """A slice where the places are consecutive, which copies many times faster."""
    first = places[0] if places else 0
    is_run = list(places) == list(range(first, first + len(places)))
    return slice(first, first + len(places)) if is_run else np.array(places, dtype=np.int64)
