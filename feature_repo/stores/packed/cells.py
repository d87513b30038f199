"""Columns of one batch on their way into packed rows: from Arrow arrays, or from Feast's `Value`s.

Arrow types that the layout's own types contain exactly are taken as they are, without a Python
object per value; everything else goes through Feast's own conversion, so that both ways agree.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType
from numpy.typing import NDArray

from core.errors import InputError
from feature_repo.stores.packed.layout import PackedField


@dataclass(frozen=True)
class Cells:
    """One feature of N rows. Scalars: `values` [N], NaN or 0 where null.

    Otherwise `values` is flat, of text and messages the bytes (u1), and `counts` [N] says how many are whose.
    """

    values: np.ndarray
    nulls: NDArray[np.bool_]
    counts: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))


def cells_from_arrow(field: PackedField, column: pa.Array) -> Cells:
    """Cells of an Arrow array [N]. Raises InputError when Feast cannot take the values as the declared type."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    cells = _exact(field, column)
    if cells is not None:
        return cells
    try:
        values = python_values_to_proto_values(column.to_numpy(zero_copy_only=False), ValueType[field.value_type])
    except Exception as error:
        raise InputError(
            f"feature {field.name} arrives as Arrow {column.type} and Feast cannot read that as its declared type "
            f"{field.value_type}: {error}; correct the source or the schema"
        ) from error
    return cells_from_values(field, values)


def cells_from_values(field: PackedField, values: Sequence[Value | None]) -> Cells:
    """Cells of Feast's values [N]; None and unset ones are null. Raises InputError for a value of another type."""
    held = [None if v is None else v.WhichOneof("val") for v in values]
    nulls = np.fromiter((h is None for h in held), dtype=bool, count=len(held))
    kind = field.kind
    if kind.form == "message":
        return _bytes([b"" if h is None else v.SerializeToString() for h, v in zip(held, values, strict=True)], nulls)  # type: ignore[union-attr]
    strange = {h for h in held if h is not None} - {kind.attribute}
    if strange:
        raise InputError(
            f"feature {field.name} is declared {field.value_type} (Feast's {kind.attribute}) but a value holds "
            f"{', '.join(sorted(strange))}; correct the writer or the schema"
        )
    present = [None if h is None else getattr(v, kind.attribute) for h, v in zip(held, values, strict=True)]
    if kind.form == "scalar":
        null = np.nan if "f" in kind.dtype else 0
        return Cells(np.array([null if p is None else p for p in present], dtype=kind.dtype), nulls)
    if kind.form == "text":
        return _bytes([b"" if p is None else p.encode() if isinstance(p, str) else p for p in present], nulls)
    lists = [() if p is None else p.val for p in present]
    counts = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
    flat = np.fromiter((item for items in lists for item in items), dtype=kind.dtype, count=int(counts.sum()))
    return Cells(flat, nulls, counts)


def _bytes(texts: Sequence[bytes], nulls: NDArray[np.bool_]) -> Cells:
    counts = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    return Cells(np.frombuffer(b"".join(texts), dtype=np.uint8), nulls, counts)


def _exact(field: PackedField, column: pa.Array) -> Cells | None:
    """Cells without conversion of single values; None where the Arrow type is not one of those that allow it."""
    form = field.kind.form
    if form == "scalar":
        return _exact_scalars(field, column)
    if form == "text" and field.value_type in ("STRING", "BYTES") and _is_text(field.value_type, column.type):
        return _texts(column)
    if form == "numbers":
        return _exact_lists(field, column)
    return None


def _exact_scalars(field: PackedField, column: pa.Array) -> Cells | None:
    numbers = _exact_numbers(field.value_type, column)
    if numbers is None:
        return None
    nulls = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else np.zeros(len(column), dtype=bool)
    if numbers.dtype.kind == "f":
        nulls = nulls | np.isnan(numbers)  # Feast counts NaN among the nulls
    with np.errstate(over="ignore"):  # a double beyond Float32 becomes infinite, as in protobuf
        return Cells(numbers.astype(field.kind.dtype, copy=False), nulls)


def _exact_numbers(value_type: str, column: pa.Array) -> np.ndarray | None:
    """Numbers of an Arrow array, null as NaN or 0; None where the type is another."""
    of, types = column.type, pa.types
    if value_type in ("FLOAT", "DOUBLE") and (types.is_float32(of) or types.is_float64(of)):
        return column.to_numpy(zero_copy_only=False)
    is_whole = (value_type == "INT64" and types.is_signed_integer(of)) or (value_type == "INT32" and types.is_int32(of))
    if is_whole:
        return (column.fill_null(0) if column.null_count else column).to_numpy(zero_copy_only=False)
    if value_type == "BOOL" and types.is_boolean(of):
        return column.fill_null(False).cast(pa.uint8()).to_numpy(zero_copy_only=False)
    if value_type == "UNIX_TIMESTAMP" and types.is_timestamp(of):
        filled = column.cast(pa.timestamp(of.unit)).cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
        return np.asarray(filled.astype(f"datetime64[{of.unit}]").astype("datetime64[s]").astype(np.int64))
    return None


_LIST_ITEMS = {
    "FLOAT_LIST": pa.float32(),
    "DOUBLE_LIST": pa.float64(),
    "INT32_LIST": pa.int32(),
    "INT64_LIST": pa.int64(),
    "BOOL_LIST": pa.bool_(),
}


def _exact_lists(field: PackedField, column: pa.Array) -> Cells | None:
    of = column.type
    if pa.types.is_fixed_size_list(of):
        column, of = column.cast(pa.list_(of.value_type)), pa.list_(of.value_type)
    if not (pa.types.is_list(of) or pa.types.is_large_list(of)) or of.value_type != _LIST_ITEMS.get(field.value_type):
        return None
    items = column.flatten()
    if items.null_count:
        return None  # Feast has its own stand-ins for nulls inside a list
    if pa.types.is_boolean(items.type):
        items = items.cast(pa.uint8())
    counts = pc.fill_null(column.value_lengths(), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return Cells(items.to_numpy(zero_copy_only=False), column.is_null().to_numpy(zero_copy_only=False), counts)


def _is_text(value_type: str, of: pa.DataType) -> bool:
    if value_type == "STRING":
        return bool(pa.types.is_string(of) or pa.types.is_large_string(of))
    return bool(pa.types.is_binary(of) or pa.types.is_large_binary(of))


def _texts(column: pa.Array) -> Cells:
    nulls = column.is_null().to_numpy(zero_copy_only=False)
    plain = column.cast(pa.large_binary()).fill_null(b"")
    offsets = np.frombuffer(plain.buffers()[1], dtype=np.int64)[plain.offset : plain.offset + len(plain) + 1]
    if not len(plain) or plain.buffers()[2] is None:
        return Cells(np.empty(0, np.uint8), nulls, np.zeros(len(plain), np.int64))
    data = np.frombuffer(plain.buffers()[2], dtype=np.uint8)[offsets[0] : offsets[-1]]
    return Cells(data, nulls, np.diff(offsets))
