"""Names of rows in Redis: `project NUL view NUL entity`, entity as Feast serializes it.

In a cluster a tag of braces stands first, `{07}project...`, made from the entity: all views of one
entity lie in one slot, and a batch touches NUM_TAGS slots instead of thousands.
"""

import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np
import pyarrow as pa
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType
from numpy.typing import NDArray

from core.errors import ConfigError, InputError

NUM_TAGS = 128
"""Hash tags in a cluster; enough to spread evenly over dozens of nodes."""
SERIALIZATION = 3
"""The version of Feast's entity keys that tells their parts apart."""
_KEY_TYPES = {
    "INT64": "int64_val",
    "INT32": "int32_val",
    "STRING": "string_val",
    "BYTES": "bytes_val",
    "UNIX_TIMESTAMP": "unix_timestamp_val",
}


@dataclass(frozen=True)
class KeySpace:
    """Names of one project's rows."""

    project: str
    is_cluster: bool = False

    def prefix(self, view: str) -> bytes:
        return f"{self.project}\0{view}\0".encode()

    def keys(self, view: str, entities: Sequence[bytes]) -> list[bytes]:
        """Keys of serialized entities, in their order."""
        prefix = self.prefix(view)
        if self.is_cluster:
            return [_TAGS[zlib.crc32(e) % NUM_TAGS] + prefix + e for e in entities]
        return [prefix + e for e in entities]

    def pattern(self, view: str) -> bytes:
        """Glob that matches every key of the view and no other."""
        escaped = re.sub(rb"([*?\[\]\\^])", rb"\\\1", self.prefix(view))
        return (b"{??}" if self.is_cluster else b"") + escaped + b"*"


_TAGS = [b"{%02x}" % tag for tag in range(NUM_TAGS)]


def tag_of(key: bytes) -> bytes:
    """The hash tag of a key in a cluster."""
    return key[:4]


class IdKeys:
    """Keys that end in an int64 id: those of several views, entity by entity."""

    def __init__(self, prefixes: Sequence[bytes]) -> None:
        """`prefixes` are what precedes the eight bytes of the id, per view."""
        arguments = [b"$%d\r\n%b%b\r\n" % (len(p) + 8, p, bytes(8)) for p in prefixes]
        self.num_views = len(prefixes)
        self._of_one = b"".join(arguments)
        self._places = np.dtype(
            {
                "names": [str(place) for place in range(len(prefixes))],
                "formats": ["<i8"] * len(prefixes),
                "offsets": [end - 10 for end in accumulate(map(len, arguments))],
                "itemsize": len(self._of_one),
            }
        )

    def as_arguments(self, ids: NDArray[np.int64]) -> bytearray:
        """The keys as arguments of a Redis command, written by numpy for all ids at once."""
        out = bytearray(self._of_one * len(ids))
        cells = np.ndarray(len(ids), self._places, out)
        for name in self._places.names or ():
            cells[name] = ids
        return out


def mget_command(keys: Sequence[tuple[IdKeys, NDArray[np.int64]]]) -> bytes:
    """MGET of the keys of all ids, as Redis reads it from the wire."""
    num_keys = sum(of.num_views * len(ids) for of, ids in keys)
    return b"*%d\r\n$4\r\nMGET\r\n%b" % (num_keys + 1, b"".join([of.as_arguments(ids) for of, ids in keys]))


def require_serialization(version: int) -> None:
    """Raises ConfigError unless Feast serializes entity keys as this store expects."""
    if version != SERIALIZATION:
        raise ConfigError(
            f"entity_key_serialization_version in feature_store.yaml is {version}; packed rows need {SERIALIZATION}"
        )


def entities_of_protos(entity_keys: Sequence[EntityKey]) -> list[bytes]:
    """Serialized entities of Feast's keys."""
    try:
        return [serialize_entity_key(key, SERIALIZATION) for key in entity_keys]
    except ValueError as error:
        raise InputError(f"an entity key has no value or one of a type that cannot be a key: {error}") from error


@lru_cache(maxsize=64)
def int64_head(join_key: str) -> bytes:
    """What precedes the eight bytes of the id in the entity of one int64 join key."""
    example = EntityKey(join_keys=[join_key], entity_values=[Value(int64_val=0)])
    return bytes(serialize_entity_key(example, SERIALIZATION)[:-8])


def entities_of_ids(join_key: str, ids: NDArray[np.int64]) -> list[bytes]:
    """Serialized entities of one int64 join key."""
    head, packed = int64_head(join_key), np.ascontiguousarray(ids, dtype="<i8").tobytes()
    return [head + packed[i : i + 8] for i in range(0, len(packed), 8)]


def entities_of_values(values: Mapping[str, Sequence[Value]]) -> list[bytes]:
    """Serialized entities of Feast's values by join key, [N] each."""
    if len(values) == 1:
        ((join_key, column),) = values.items()
        if all(v.WhichOneof("val") == "int64_val" for v in column):
            return entities_of_ids(join_key, np.array([v.int64_val for v in column], dtype=np.int64))
    names = list(values)
    return entities_of_protos(
        [EntityKey(join_keys=names, entity_values=row) for row in zip(*values.values(), strict=True)]
    )


def entities_of_arrow(columns: Mapping[str, tuple[ValueType, pa.Array]]) -> list[bytes]:
    """Serialized entities of Arrow columns by join key with their Feast types. Raises InputError for a null key."""
    for name, (_, column) in columns.items():
        if column.null_count:
            raise InputError(f"join key {name} is null in {column.null_count} rows; a row needs every key")
    if len(columns) == 1:
        ((name, (value_type, column)),) = columns.items()
        if value_type == ValueType.INT64 and pa.types.is_signed_integer(column.type):
            return entities_of_ids(name, column.to_numpy(zero_copy_only=False).astype(np.int64))
    names = sorted(columns)
    head = struct.pack("<I", len(names))
    for name in names:
        encoded = name.encode()
        head += struct.pack("<II", ValueType.STRING.value, len(encoded)) + encoded
    parts = [_key_parts(*columns[name]) for name in names]
    return [head + b"".join(row) for row in zip(*parts, strict=True)]


def _key_parts(value_type: ValueType, column: pa.Array) -> list[bytes]:
    """Type, length and bytes of every value of one join key."""
    if value_type.name not in _KEY_TYPES:
        raise InputError(f"a join key of type {value_type.name} cannot be serialized; use one of {list(_KEY_TYPES)}")
    values = python_values_to_proto_values(column.to_numpy(zero_copy_only=False), value_type)
    raw = [getattr(v, _KEY_TYPES[value_type.name]) for v in values]
    if value_type in (ValueType.INT64, ValueType.UNIX_TIMESTAMP):
        raw = [struct.pack("<q", v) for v in raw]
    elif value_type == ValueType.INT32:
        raw = [struct.pack("<i", v) for v in raw]
    else:
        raw = [v.encode() if isinstance(v, str) else v for v in raw]
    return [struct.pack("<II", value_type.value, len(v)) + v for v in raw]
