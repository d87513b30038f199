"""Where every feature of a view lies in its binary row. Pure: names, types and lengths in, offsets out.

    0   layout hash   u8    rows of another layout are recognised and never read
    8   event time    i8    microseconds since 1970, UTC
    16  known time    i8    likewise; UNKNOWN where the source has none
    24  numbers by width (f8, i8, f4, i4), fixed-length lists, their counts, ends of the variable fields,
        booleans, null bits; padded to eight bytes
    ... variable part: strings, lists of undeclared length, and Feast `Value`s of every other type

Scalars of one type lie side by side in the order of the schema, so that a whole block of features
is one slice. A list has a fixed place when its field says so: tag `packed_length` or `vector_length`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np

from core.errors import ConfigError

Form = Literal["scalar", "text", "numbers", "message"]

FORMAT = "vitrine-packed-1"
LENGTH_TAG = "packed_length"
UNKNOWN = -(2**63)
"""Known time of a row whose source has no created timestamp; earlier than every other."""
FOREVER = 2**63 - 1
"""Time to live of a view that has none, in microseconds."""
HEADER = [("layout", "<u8"), ("event", "<i8"), ("known", "<i8")]


@dataclass(frozen=True)
class Kind:
    """How values of one Feast type are kept: member of `Value`, form, numpy type of the numbers."""

    attribute: str
    form: Form
    dtype: str = ""


KINDS: dict[str, Kind] = {
    "DOUBLE": Kind("double_val", "scalar", "<f8"),
    "INT64": Kind("int64_val", "scalar", "<i8"),
    "UNIX_TIMESTAMP": Kind("unix_timestamp_val", "scalar", "<i8"),
    "FLOAT": Kind("float_val", "scalar", "<f4"),
    "INT32": Kind("int32_val", "scalar", "<i4"),
    "BOOL": Kind("bool_val", "scalar", "|u1"),
    "STRING": Kind("string_val", "text"),
    "BYTES": Kind("bytes_val", "text"),
    "PDF_BYTES": Kind("bytes_val", "text"),
    "IMAGE_BYTES": Kind("bytes_val", "text"),
    "JSON": Kind("json_val", "text"),
    "UUID": Kind("uuid_val", "text"),
    "TIME_UUID": Kind("time_uuid_val", "text"),
    "DECIMAL": Kind("decimal_val", "text"),
    "DOUBLE_LIST": Kind("double_list_val", "numbers", "<f8"),
    "INT64_LIST": Kind("int64_list_val", "numbers", "<i8"),
    "UNIX_TIMESTAMP_LIST": Kind("unix_timestamp_list_val", "numbers", "<i8"),
    "FLOAT_LIST": Kind("float_list_val", "numbers", "<f4"),
    "INT32_LIST": Kind("int32_list_val", "numbers", "<i4"),
    "BOOL_LIST": Kind("bool_list_val", "numbers", "|u1"),
}
"""Types by their Feast name; the others are kept as serialized `Value`s."""

MESSAGE = Kind("", "message")
_WIDTHS = ("<f8", "<i8", "<f4", "<i4", "|u1")


@dataclass(frozen=True)
class PackedField:
    """One feature: name, Feast value type, capacity of a list with a fixed place (0 for none)."""

    name: str
    value_type: str
    length: int = 0

    @cached_property
    def kind(self) -> Kind:
        return KINDS.get(self.value_type, MESSAGE)

    @property
    def is_fixed_list(self) -> bool:
        return self.kind.form == "numbers" and self.length > 0

    @property
    def is_variable(self) -> bool:
        return self.kind.form != "scalar" and not self.is_fixed_list


class Layout:
    """Places of the fields of one view; equal fields make equal layouts."""

    def __init__(self, fields: Sequence[PackedField]) -> None:
        self.fields = tuple(fields)
        self.by_name = {f.name: f for f in self.fields}
        self.bits = {f.name: i for i, f in enumerate(self.fields)}
        self.fixed_lists = tuple(f for f in self.fields if f.is_fixed_list)
        self.variable = tuple(f for f in self.fields if f.is_variable)
        self.columns: dict[str, int] = {}
        """Column of every scalar within its group, which is its numpy type."""
        for width in _WIDTHS:
            of_width = [f for f in self.fields if f.kind.form == "scalar" and f.kind.dtype == width]
            self.columns |= {f.name: i for i, f in enumerate(of_width)}
        self.dtype = np.dtype(self._record())
        self.size = self.dtype.itemsize
        self.hash = self._hash()
        self.stamp = self.hash.to_bytes(8, "little")

    def list_name(self, field: PackedField) -> str:
        """Member of the record that holds a fixed list."""
        return f"list_{self.bits[field.name]}"

    @cached_property
    def blank(self) -> np.ndarray:
        """What is read where there is no row, [1]: every bit null, floats NaN, integers 0."""
        record = np.zeros(1, dtype=self.dtype)
        record["layout"], record["event"], record["known"] = self.hash, UNKNOWN, UNKNOWN
        record["nulls"] = 0xFF
        for width in ("<f8", "<f4"):
            if width in (self.dtype.names or ()):
                record[width] = np.nan
        return record

    def _record(self) -> Any:
        parts: list[tuple[str, str, tuple[int, ...]]] = []
        for width in _WIDTHS:
            of_width = [f for f in self.fields if f.kind.form == "scalar" and f.kind.dtype == width]
            if of_width:
                parts.append((width, width, (len(of_width),)))
        parts += [(self.list_name(f), f.kind.dtype, (f.length,)) for f in self.fixed_lists]
        if self.fixed_lists:
            parts.append(("counts", "<u4", (len(self.fixed_lists),)))
        if self.variable:
            parts.append(("ends", "<u4", (len(self.variable),)))
        parts.append(("nulls", "|u1", ((len(self.fields) + 7) // 8 or 1,)))
        parts.sort(key=lambda p: -np.dtype(p[1]).itemsize)  # widest first: everything is aligned
        whole: list[Any] = [*HEADER, *parts]
        size = np.dtype(whole).itemsize
        return [*whole, ("padding", "|u1", (-size % 8,))]

    def _hash(self) -> int:
        text = "\n".join([FORMAT, *(f"{f.name}\t{f.value_type}\t{f.length}" for f in self.fields)])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def layout_of(view: Any) -> Layout:
    """Layout of a Feast view (any object with `features`). Raises ConfigError for a bad `packed_length`."""
    return _layout(tuple((f.name, f.dtype.to_value_type().name, _length(view, f)) for f in view.features))


def ttl_us_of(view: Any) -> int:
    """Time to live of a Feast view's rows in microseconds."""
    ttl = getattr(view, "ttl", None)
    return round(ttl.total_seconds() * 1_000_000) if ttl else FOREVER


@lru_cache(maxsize=512)
def _layout(fields: tuple[tuple[str, str, int], ...]) -> Layout:
    return Layout([PackedField(*field) for field in fields])


def _length(view: Any, field: Any) -> int:
    text = (field.tags or {}).get(LENGTH_TAG) or str(field.vector_length or 0)
    if not text.isdecimal():
        raise ConfigError(
            f"feature {field.name} of view {view.name} has the tag {LENGTH_TAG}={text!r}; expected a whole number "
            "of list items, or no tag"
        )
    return int(text)
