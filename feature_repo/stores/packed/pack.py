"""Packed rows out of columns: fixed parts by numpy for the whole batch, then one `bytes` per row."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from feature_repo.stores.packed.cells import Cells
from feature_repo.stores.packed.layout import Layout, PackedField


def pack_rows(
    layout: Layout, cells: Sequence[Cells], event_us: NDArray[np.int64], known_us: NDArray[np.int64]
) -> list[bytes]:
    """One row per entity, [N]; `cells` in the order of the layout's fields, times in microseconds.

    Raises InputError for a list longer than its declared length.
    """
    records = np.zeros(len(event_us), dtype=layout.dtype)
    records["layout"], records["event"], records["known"] = layout.hash, event_us, known_us
    if layout.fields:
        nulls = np.stack([c.nulls for c in cells], axis=1)
        records["nulls"] = np.packbits(nulls, axis=1, bitorder="little")
    by_name = {f.name: c for f, c in zip(layout.fields, cells, strict=True)}
    for name, column in layout.columns.items():
        records[layout.by_name[name].kind.dtype][:, column] = by_name[name].values
    for index, field in enumerate(layout.fixed_lists):
        records["counts"][:, index] = _place_list(records[layout.list_name(field)], field, by_name[field.name])
    if not layout.variable:
        return _slices(records.tobytes(), layout.size)
    tails, ends = _tails([by_name[f.name] for f in layout.variable], len(records))
    records["ends"] = ends
    return [head + tail for head, tail in zip(_slices(records.tobytes(), layout.size), tails, strict=True)]


def _slices(blob: bytes, size: int) -> list[bytes]:
    return [blob[start : start + size] for start in range(0, len(blob), size)]


def _place_list(out: np.ndarray, field: PackedField, cells: Cells) -> NDArray[np.int64]:
    """Fills `out` [N, L] and returns the counts [N]."""
    counts = cells.counts
    if counts.size and int(counts.max()) > field.length:
        row = int(counts.argmax())
        raise InputError(
            f"feature {field.name} has a list of {counts[row]} items in row {row} of the batch, more than its declared "
            f"{field.length}; correct the source, or raise or drop packed_length in the schema"
        )
    if (counts == field.length).all():
        out[:] = cells.values.reshape(out.shape)
    else:
        out[np.repeat(np.arange(len(counts)), counts), ramps(counts)] = cells.values
    return counts


def ramps(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """0 to count - 1 for every count, one after the other."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)


def _tails(columns: Sequence[Cells], num_rows: int) -> tuple[list[bytes], NDArray[np.uint32]]:
    """Variable part of every row, and where each field of it ends, [N, V]."""
    sizes = np.zeros((num_rows, len(columns)), dtype=np.int64)
    for index, cells in enumerate(columns):
        sizes[:, index] = cells.counts * cells.values.dtype.itemsize
    ends = np.cumsum(sizes, axis=1)
    row_ends = np.cumsum(ends[:, -1])
    starts = (row_ends - ends[:, -1])[:, None] + ends - sizes
    out = np.empty(int(row_ends[-1]) if num_rows else 0, dtype=np.uint8)
    for index, cells in enumerate(columns):
        if len(columns) == 1:
            out = np.ascontiguousarray(cells.values).view(np.uint8)
        else:
            places = np.repeat(starts[:, index], sizes[:, index]) + ramps(sizes[:, index])
            out[places] = np.ascontiguousarray(cells.values).view(np.uint8)
    blob = out.tobytes()
    bounds = [0, *row_ends.tolist()]
    return [blob[a:b] for a, b in pairwise(bounds)], ends.astype(np.uint32)
