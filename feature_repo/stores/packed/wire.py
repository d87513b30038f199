"""Columns of packed rows as the bytes of Feast's protobuf messages.

A column of N values is written as `repeated Value` on field 1, which is both Feast's `RepeatedValue`
and the values of a response's `FeatureVector`. Numbers are written by numpy for the whole column;
the protobuf runtime then parses one message instead of Python making N. Field numbers are read
from Feast's own descriptors.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from feast.protos.feast.types.Value_pb2 import RepeatedValue, Value
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray

from feature_repo.stores.packed.layout import PackedField
from feature_repo.stores.packed.unpack import Unpacked

_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5
_MEMBER = b"\x0a"  # field 1, length-delimited: one Value of the repeated field
_EMPTY = b"\x0a\x00"
_BIGGEST_VARINT = 10


def value_column(rows: Unpacked, name: str) -> bytes:
    """`repeated Value` of one feature; null and missing rows are empty Values."""
    field = rows.layout.by_name[name]
    nulls = rows.nulls[:, rows.layout.bits[name]]
    if field.kind.form == "scalar":
        return _scalars(field, rows.scalars(name), nulls)
    if field.kind.form == "numbers":
        payloads = _number_lists(field, *rows.numbers(name))
    elif field.kind.form == "text":
        payloads = [_delimited(field.kind.attribute, text) for text in rows.strings(name)]
    else:
        payloads = rows.strings(name)
    pieces = [
        _EMPTY if null else _MEMBER + _varint(len(p)) + p for p, null in zip(payloads, nulls.tolist(), strict=True)
    ]
    return b"".join(pieces)


def values_of(rows: Unpacked, name: str) -> Sequence[Value]:
    """One feature as Feast's `Value`s, [N]."""
    return RepeatedValue.FromString(value_column(rows, name)).val


def status_column(statuses: NDArray[np.uint8]) -> bytes:
    """`FeatureVector.statuses`, packed."""
    return b"\x12" + _varint(len(statuses)) + statuses.tobytes()


def time_column(event_us: NDArray[np.int64], found: NDArray[np.bool_]) -> bytes:
    """`FeatureVector.event_timestamps`; an empty Timestamp where nothing was found."""
    pieces = []
    for micros, is_found in zip(event_us.tolist(), found.tolist(), strict=True):
        raw = b""
        if is_found:
            seconds, rest = divmod(micros, 1_000_000)
            raw = Timestamp(seconds=seconds, nanos=rest * 1000).SerializeToString()
        pieces.append(b"\x1a" + _varint(len(raw)) + raw)
    return b"".join(pieces)


def _tag(attribute: str, wire_type: int) -> bytes:
    return _varint(Value.DESCRIPTOR.fields_by_name[attribute].number << 3 | wire_type)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _delimited(attribute: str, payload: bytes) -> bytes:
    return _tag(attribute, _BYTES) + _varint(len(payload)) + payload


def _scalars(field: PackedField, values: np.ndarray, nulls: NDArray[np.bool_]) -> bytes:
    """Every value in a row of a byte matrix, of which the bytes in use are kept."""
    if values.dtype.kind == "f":
        tag = _tag(field.kind.attribute, _FLOAT if values.dtype.itemsize == 4 else _DOUBLE)
        payload = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)
        sizes = np.full(len(values), payload.shape[1])
    else:
        tag = _tag(field.kind.attribute, _VARINT)
        payload, sizes = _varints(values.astype(np.int64))
    start = 2 + len(tag)
    cells = np.empty((len(values), start + payload.shape[1]), dtype=np.uint8)
    cells[:, 0] = _MEMBER[0]
    cells[:, 1] = np.where(nulls, 0, len(tag) + sizes)
    cells[:, 2:start] = np.frombuffer(tag, dtype=np.uint8)
    cells[:, start:] = payload
    used = np.where(nulls, 2, start + sizes)
    if (used == cells.shape[1]).all():
        return cells.tobytes()
    return cells[np.arange(cells.shape[1]) < used[:, None]].tobytes()


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
        inner = b"\x0a" + _varint(end - begin) + blob[begin:end] if end > begin else b""
        out.append(outer + _varint(len(inner)) + inner)
    return out
