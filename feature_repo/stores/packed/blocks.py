"""The form of a direct read: blocks of numbers over all views, and which features go to which block."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from core.errors import ConfigError
from feature_repo.stores.packed.layout import layout_of, ttl_us_of
from feature_repo.stores.packed.unpack import Unpacked

FLOATS = ("<f8", "<f4")
INTS = ("<i8", "<i4", "|u1")


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


class ViewBlocks:
    """The chosen features of one view, by the block they go to, and the view's first column in each."""

    def __init__(self, view: Any, features: Sequence[str], before: "ViewBlocks | None" = None) -> None:
        """`before` is the view whose columns these follow.

        Raises ConfigError for a feature without a column form.
        """
        self.name = view.projection.name_to_use()
        self.features = tuple(features)
        self.layout, self.ttl_us = layout_of(view), ttl_us_of(view)
        unknown = [n for n in features if n not in self.layout.by_name]
        formless = [n for n in features if n not in unknown and self.layout.by_name[n].kind.form == "message"]
        if unknown or formless:
            raise ConfigError(
                f"view {view.name} cannot be read directly: no feature {unknown}, no column form for {formless}; "
                "choose others, or read those through get_online_features"
            )
        self.float_names = [n for n in features if self._is_in(n, FLOATS)]
        self.int_names = [n for n in features if self._is_in(n, INTS)]
        self.sequence_names = [n for n in features if self.layout.by_name[n].kind.form == "numbers"]
        self.text_names = [n for n in features if self.layout.by_name[n].kind.form == "text"]
        self.first_float: int = before.first_float + len(before.float_names) if before else 0
        self.first_int: int = before.first_int + len(before.int_names) if before else 0
        self.first_name: int = before.first_name + len(before.features) if before else 0

    def fill_lists(self, block: FeatureBlock, rows: Unpacked) -> None:
        """Puts sequences and texts into `block`."""
        for name in self.sequence_names:
            full = f"{self.name}__{name}"
            block.sequences[full], block.lengths[full] = _sequence(rows, name)
        for name in self.text_names:
            block.texts[f"{self.name}__{name}"] = _text(rows, name)

    def _is_in(self, name: str, groups: Sequence[str]) -> bool:
        kind = self.layout.by_name[name].kind
        return kind.form == "scalar" and kind.dtype in groups


class BlockForm:
    """Columns of the blocks of one choice of views."""

    def __init__(self, views: Sequence[ViewBlocks]) -> None:
        def full(of: Callable[[ViewBlocks], Sequence[str]]) -> tuple[str, ...]:
            return tuple(f"{view.name}__{name}" for view in views for name in of(view))

        self._names, self._views = full(lambda v: v.features), tuple(v.name for v in views)
        self._floats, self._ints = full(lambda v: v.float_names), full(lambda v: v.int_names)

    def empty(self, num_rows: int) -> FeatureBlock:
        """A block of N rows whose numbers are still to be filled in."""
        return FeatureBlock(
            self._names,
            self._floats,
            self._ints,
            self._views,
            np.empty((num_rows, len(self._floats)), dtype=np.float32),
            np.empty((num_rows, len(self._ints)), dtype=np.int64),
            np.empty((num_rows, len(self._names)), dtype=np.bool_),
            np.empty((num_rows, len(self._views)), dtype=np.float64),
        )


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
