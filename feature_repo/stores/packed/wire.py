"""Columns of packed rows as the bytes of Feast's protobuf messages.

A column of N values is written as `repeated Value` on field 1, which is both Feast's `RepeatedValue`
and the values of a response's `FeatureVector`. Numbers are written by numpy for all columns of a type
at once; the protobuf runtime then parses one message instead of Python making N. Field numbers are
read from Feast's own descriptors.

Shapes: F columns, N rows, W bytes.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from feast.protos.feast.types.Value_pb2 import RepeatedValue, Value
from numpy.typing import NDArray

from feature_repo.stores.packed.layout import PackedField
from feature_repo.stores.packed.unpack import Unpacked

_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5
_MEMBER = b"\x0a"  # field 1, length-delimited: one Value of the repeated field
_EMPTY = b"\x0a\x00"
_BIGGEST_VARINT = 10
MICROS = 1_000_000


def value_columns(rows: Unpacked, names: Sequence[str]) -> list[bytes]:
    """`repeated Value` of each feature; null and missing rows are empty Values."""
    fields = [rows.layout.by_name[name] for name in names]
    columns: dict[str, bytes] = {}
    for attribute in dict.fromkeys(f.kind.attribute for f in fields if f.kind.form == "scalar"):
        columns |= _scalars(rows, [f for f in fields if f.kind.attribute == attribute])
    for field in fields:
        if field.kind.form != "scalar":
            columns[field.name] = _variable(rows, field)
    return [columns[name] for name in names]


def values_of(rows: Unpacked, names: Sequence[str]) -> list[Sequence[Value]]:
    """Each feature as Feast's `Value`s, [N]."""
    return [RepeatedValue.FromString(column).val for column in value_columns(rows, names)]


def status_column(statuses: NDArray[np.uint8]) -> bytes:
    """`FeatureVector.statuses`, packed."""
    return b"\x12" + varint(len(statuses)) + statuses.tobytes()


def time_column(event_us: NDArray[np.int64], found: NDArray[np.bool_]) -> bytes:
    """`FeatureVector.event_timestamps`; an empty Timestamp where nothing was found."""
    seconds, seconds_used = _varints(event_us // MICROS)
    nanos, nanos_used = _varints(event_us % MICROS * 1000)
    tag = np.full((len(event_us), 1), 0x1A, dtype=np.uint8)
    sizes = np.where(found, 2 + seconds_used + nanos_used, 0)
    parts = [tag, sizes[:, None].astype(np.uint8), tag - 0x12, seconds, tag - 0x0A, nanos]
    one = np.ones((len(event_us), 1), dtype=bool)
    is_used = [one, one, found[:, None], _first(seconds_used, seconds), found[:, None], _first(nanos_used, nanos)]
    kept = np.hstack(is_used)
    kept[:, 2:] &= found[:, None]
    return np.hstack(parts)[kept].tobytes()


def varint(number: int) -> bytes:
    """Base-128 bytes of a number that is not negative."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _first(counts: NDArray[np.int64], of: np.ndarray) -> NDArray[np.bool_]:
    """The first `count` places of every row, [N, W]."""
    return np.arange(of.shape[1]) < counts[:, None]


def _variable(rows: Unpacked, field: PackedField) -> bytes:
    """`repeated Value` of a text, list or message."""
    if field.kind.form == "numbers":
        payloads = _number_lists(field, *rows.numbers(field.name))
    elif field.kind.form == "text":
        payloads = [_delimited(field.kind.attribute, text) for text in rows.strings(field.name)]
    else:
        payloads = rows.strings(field.name)
    nulls = rows.nulls[:, rows.layout.bits[field.name]].tolist()
    return b"".join(_EMPTY if null else _MEMBER + varint(len(p)) + p for p, null in zip(payloads, nulls, strict=True))


def _tag(attribute: str, wire_type: int) -> bytes:
    return varint(Value.DESCRIPTOR.fields_by_name[attribute].number << 3 | wire_type)


def _delimited(attribute: str, payload: bytes) -> bytes:
    return _tag(attribute, _BYTES) + varint(len(payload)) + payload


def _scalars(rows: Unpacked, fields: Sequence[PackedField]) -> dict[str, bytes]:
    """Columns of one type: every value in a row of a byte matrix [F, N, W], of which the bytes in use are kept."""
    kind, layout = fields[0].kind, rows.layout
    values = np.ascontiguousarray(rows.records[kind.dtype][:, [layout.columns[f.name] for f in fields]].T)
    nulls = rows.nulls[:, [layout.bits[f.name] for f in fields]].T
    if values.dtype.kind == "f":
        tag = _tag(kind.attribute, _FLOAT if values.dtype.itemsize == 4 else _DOUBLE)
        payload = values.view(np.uint8).reshape(*values.shape, values.dtype.itemsize)
        sizes = np.full(values.shape, values.dtype.itemsize)
    else:
        tag = _tag(kind.attribute, _VARINT)
        flat, used = _varints(values.astype(np.int64).reshape(-1))
        payload, sizes = flat.reshape(*values.shape, flat.shape[1]), used.reshape(values.shape)
    start = 2 + len(tag)
    cells = np.empty((*values.shape, start + payload.shape[-1]), dtype=np.uint8)
    cells[..., 0] = _MEMBER[0]
    cells[..., 1] = np.where(nulls, 0, len(tag) + sizes)
    cells[..., 2:start] = np.frombuffer(tag, dtype=np.uint8)
    cells[..., start:] = payload
    num_used = np.where(nulls, 2, start + sizes)
    if (num_used == cells.shape[-1]).all():
        return {f.name: cells[place].tobytes() for place, f in enumerate(fields)}
    blob = cells[np.arange(cells.shape[-1]) < num_used[..., None]].tobytes()
    bounds = pairwise([0, *np.cumsum(num_used.sum(axis=1)).tolist()])
    return {f.name: blob[begin:end] for f, (begin, end) in zip(fields, bounds, strict=True)}


def _varints(values: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Base-128 bytes of every number, [N, W], and how many of them count, [N]. Negative numbers take ten."""
    unsigned = values.view(np.uint64)
    width = 1
    while width < _BIGGEST_VARINT and len(unsigned) and int(unsigned.max()) >> (7 * width):
        width += 1
    shifts = np.arange(width, dtype=np.uint64) * np.uint64(7)
    groups = unsigned[:, None] >> shifts
    sizes = 1 + (groups[:, 1:] != 0).sum(axis=1)
    payload = (groups & np.uint64(0x7F)).astype(np.uint8)
    payload |= np.where(np.arange(width) < sizes[:, None] - 1, 0x80, 0).astype(np.uint8)
    return payload, sizes


def _number_lists(field: PackedField, items: np.ndarray, counts: NDArray[np.int64]) -> list[bytes]:
    """Serialized `Value` of every list: a message whose field 1 holds the packed numbers."""
    outer = _tag(field.kind.attribute, _BYTES)
    if items.dtype.kind == "f":
        payload, sizes = np.ascontiguousarray(items).view(np.uint8), counts * items.dtype.itemsize
    else:
        groups, used = _varints(items.astype(np.int64))
        payload = groups[np.arange(groups.shape[1]) < used[:, None]]
        totals = np.concatenate([[0], np.cumsum(used)])
        ends = np.cumsum(counts)
        sizes = totals[ends] - totals[ends - counts]
    blob, bounds = payload.tobytes(), [0, *np.cumsum(sizes).tolist()]
    out = []
    for begin, end in pairwise(bounds):
        inner = b"\x0a" + varint(end - begin) + blob[begin:end] if end > begin else b""
        out.append(outer + varint(len(inner)) + inner)
    return out
