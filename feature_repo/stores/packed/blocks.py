"""The form of a direct read: blocks of numbers over all views, and how one view's rows fill them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from core.errors import ConfigError
from feature_repo.stores.packed.layout import layout_of
from feature_repo.stores.packed.unpack import Unpacked

Index = slice | NDArray[np.int64]

_FLOATS = ("<f8", "<f4")
_INTS = ("<i8", "<i4", "|u1")


@dataclass
class FeatureBlock:
    """Features of N rows; columns in the order the reader was asked for, names `view__feature`."""

    names: tuple[str, ...]
    """Every feature, the columns of `nulls`."""
    float_names: tuple[str, ...]
    int_names: tuple[str, ...]
    views: tuple[str, ...]
    """Columns of `ages`."""
    floats: NDArray[np.float32]
    """[N, F] of Float32 and Float64 (rounded); NaN where null."""
    ints: NDArray[np.int64]
    """[N, I] of Int32, Int64, Bool and UnixTimestamp (seconds); 0 where null."""
    nulls: NDArray[np.bool_]
    """[N, names]"""
    ages: NDArray[np.float64]
    """[N, views] seconds since the event time; NaN where there is no row within its time to live."""
    sequences: dict[str, np.ndarray] = field(default_factory=dict)
    """[N, L] by name, padded with 0: L is the declared length, else the longest of the rows."""
    lengths: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    """Items of each sequence before the padding, [N]."""
    texts: dict[str, pa.Array] = field(default_factory=dict)
    """Arrow strings (or binary), [N]; null where null."""


@dataclass(frozen=True)
class _Move:
    """Columns of one group of the record that go to one block."""

    group: str
    source: Index
    target: Index


class ViewBlocks:
    """The chosen features of one view and where they go. Columns are set by `empty_block`."""

    def __init__(self, view: Any, features: Sequence[str]) -> None:
        self.view = view
        self.name = view.projection.name_to_use()
        self.features = tuple(features)
        self.layout = layout_of(view)
        unknown = [n for n in features if n not in self.layout.by_name]
        formless = [n for n in features if n not in unknown and self.layout.by_name[n].kind.form == "message"]
        if unknown or formless:
            raise ConfigError(
                f"view {view.name} cannot be read directly: no feature {unknown}, no column form for {formless}; "
                "choose others, or read those through get_online_features"
            )
        self.float_names = [n for n in features if self._is_in(n, _FLOATS)]
        self.int_names = [n for n in features if self._is_in(n, _INTS)]
        self.sequence_names = [n for n in features if self.layout.by_name[n].kind.form == "numbers"]
        self.text_names = [n for n in features if self.layout.by_name[n].kind.form == "text"]
        self._bits = _index([self.layout.bits[n] for n in features])
        self._floats: list[_Move] = []
        self._ints: list[_Move] = []
        self._nulls: Index = slice(0)

    def place(self, first_float: int, first_int: int, first_name: int) -> None:
        """Sets the first column of this view in each block."""
        self._floats = self._moves(self.float_names, _FLOATS, first_float)
        self._ints = self._moves(self.int_names, _INTS, first_int)
        self._nulls = slice(first_name, first_name + len(self.features))

    def fill(self, block: FeatureBlock, column: int, rows: Unpacked, now_us: int) -> None:
        """Writes the rows' values into `block`; `column` is the view's in `ages`."""
        for move in self._floats:
            block.floats[:, move.target] = rows.records[move.group][:, move.source]
        for move in self._ints:
            block.ints[:, move.target] = rows.records[move.group][:, move.source]
        block.nulls[:, self._nulls] = rows.nulls[:, self._bits]
        ages = (now_us - rows.event_us) / 1e6
        block.ages[:, column] = ages if rows.found.all() else np.where(rows.found, ages, np.nan)
        for name in self.sequence_names:
            full = f"{self.name}__{name}"
            block.sequences[full], block.lengths[full] = _sequence(rows, name)
        for name in self.text_names:
            block.texts[f"{self.name}__{name}"] = _text(rows, name)

    def _is_in(self, name: str, groups: Sequence[str]) -> bool:
        kind = self.layout.by_name[name].kind
        return kind.form == "scalar" and kind.dtype in groups

    def _moves(self, names: Sequence[str], groups: Sequence[str], first: int) -> list[_Move]:
        moves = []
        for group in groups:
            chosen = [(i, n) for i, n in enumerate(names) if self.layout.by_name[n].kind.dtype == group]
            if chosen:
                sources = _index([self.layout.columns[n] for _, n in chosen])
                moves.append(_Move(group, sources, _index([first + i for i, _ in chosen])))
        return moves


def empty_block(views: Sequence[ViewBlocks]) -> Callable[[int], FeatureBlock]:
    """Maker of blocks for N rows; gives every view its columns."""
    floats: list[str] = []
    ints: list[str] = []
    names: list[str] = []
    for view in views:
        view.place(len(floats), len(ints), len(names))
        floats += [f"{view.name}__{n}" for n in view.float_names]
        ints += [f"{view.name}__{n}" for n in view.int_names]
        names += [f"{view.name}__{n}" for n in view.features]
    headings = tuple(names), tuple(floats), tuple(ints), tuple(v.name for v in views)

    def make(num_rows: int) -> FeatureBlock:
        return FeatureBlock(
            *headings,
            np.empty((num_rows, len(floats)), dtype=np.float32),
            np.empty((num_rows, len(ints)), dtype=np.int64),
            np.empty((num_rows, len(names)), dtype=np.bool_),
            np.empty((num_rows, len(views)), dtype=np.float64),
        )

    return make


def _index(places: Sequence[int]) -> Index:
    """A slice where the places are consecutive, which copies many times faster."""
    if list(places) == list(range(places[0], places[0] + len(places))) if places else True:
        return slice(places[0], places[0] + len(places)) if places else slice(0)
    return np.array(places, dtype=np.int64)


def _sequence(rows: Unpacked, name: str) -> tuple[np.ndarray, NDArray[np.int64]]:
    field_ = rows.layout.by_name[name]
    if field_.is_fixed_list:
        counts = rows.records["counts"][:, rows.layout.fixed_lists.index(field_)].astype(np.int64)
        return rows.records[rows.layout.list_name(field_)], counts
    _, counts = rows.numbers(name)
    return rows.padded(name, int(counts.max(initial=0)), 0), counts


def _text(rows: Unpacked, name: str) -> pa.Array:
    data, sizes = rows.texts(name)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    nulls = rows.nulls[:, rows.layout.bits[name]]
    is_bytes = rows.layout.by_name[name].kind.attribute == "bytes_val"
    valid = pa.py_buffer(np.packbits(~nulls, bitorder="little").tobytes())
    of = pa.large_binary() if is_bytes else pa.large_string()
    return pa.Array.from_buffers(of, len(rows), [valid, pa.py_buffer(offsets), pa.py_buffer(data.tobytes())])
