"""`Columns`: features as numpy arrays by full name, the one form that training, serving and models read.

Conventions, equal offline and online: float32 with NaN for null; int64 with -1 for null; str as
object arrays with "" for null; lists as [N, L] with the length L of the catalogue, int64 padded
with -1 or float32 padded with 0.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from core.errors import InputError
from feature_repo.catalog import FIELDS, LIST_LENGTHS

Columns = dict[str, np.ndarray]
"""Arrays by `view__feature`, equal in their first dimension."""


def columns_from_arrow(table: pa.Table, names: Sequence[str] | None = None) -> Columns:
    """Arrays of the feature columns (`view__feature`) of `table`, or of `names` only; other columns are left out.

    Raises InputError for a feature that the catalogue does not know.
    """
    wanted = [n for n in table.column_names if "__" in n] if names is None else list(names)
    return {name: _array(name, table.column(name)) for name in wanted}


def null_columns(names: Sequence[str], num_rows: int) -> Columns:
    """What an unknown entity reads as: every feature null, [num_rows] or [num_rows, L]."""
    columns: Columns = {}
    for name in names:
        field = FIELDS[name]
        if field.dtype == "str":
            columns[name] = np.full(num_rows, "", dtype=object)
        elif field.dtype == "float":
            columns[name] = np.full(num_rows, np.nan, dtype=np.float32)
        elif field.dtype == "int":
            columns[name] = np.full(num_rows, -1, dtype=np.int64)
        elif field.dtype == "ints":
            columns[name] = np.full((num_rows, field.length), -1, dtype=np.int64)
        else:
            columns[name] = np.zeros((num_rows, field.length), dtype=np.float32)
    return columns


def _array(name: str, column: pa.ChunkedArray) -> np.ndarray:
    if name not in FIELDS:
        raise InputError(f"feature {name!r} is not declared in feature_repo/catalog.py; known views are listed there")
    field = FIELDS[name]
    values = column.combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], type=column.type)
    if pa.types.is_null(values.type):
        return null_columns([name], len(values))[name]
    match field.dtype:
        case "str":
            return np.asarray(values.fill_null("").to_numpy(zero_copy_only=False), dtype=object)
        case "float":
            return values.cast(pa.float32()).to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
        case "int":
            if pa.types.is_floating(values.type):  # pandas turns an int column with nulls into floats
                values = pa.array(values.to_numpy(zero_copy_only=False), type=pa.float64(), from_pandas=True)
            return values.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
        case "ints":
            return _padded(values, LIST_LENGTHS[name], np.dtype(np.int64), -1)
        case _:
            return _padded(values, LIST_LENGTHS[name], np.dtype(np.float32), 0)


def _padded(values: pa.Array, length: int, dtype: np.dtype, pad: int) -> np.ndarray:
    """Lists as [N, length]: cut when longer, padded when shorter or null."""
    if pa.types.is_fixed_size_list(values.type):
        values = values.cast(pa.list_(values.type.value_type))
    out = np.full((len(values), length), pad, dtype=dtype)
    counts = values.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    flat = values.flatten()
    filled = flat.fill_null(pad) if flat.null_count else flat
    items = filled.to_numpy(zero_copy_only=False).astype(dtype, copy=False)
    place = np.arange(len(items)) - np.repeat(np.cumsum(counts) - counts, counts)
    row = np.repeat(np.arange(len(values)), counts)
    keep = place < length
    out[row[keep], place[keep]] = items[keep]
    return out
