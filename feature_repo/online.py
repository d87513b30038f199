"""Online features of users, posts and creators, as `Columns` equal to what training joined.

Redis holds Feast's own format: one hash per entity, one serialized `Value` per feature. The values
are decoded here column by column, without Feast's response objects, which cost far more than the read.
"""

import struct
from collections.abc import Sequence

import numpy as np
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import _mmh3, get_online_store_from_config
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from numpy.typing import NDArray

from core.errors import ConfigError, FeatureStoreError
from core.workspace import Workspace
from feature_repo.catalog import ENTITY_VIEWS, JOIN_KEYS, VIEWS, FeatureField
from feature_repo.columns import Columns
from feature_repo.store import open_feature_store
from feature_repo.stores.redis import WorkspaceRedisOnlineStore

_FLOAT_TAG = 0x35  # protobuf: field 6 (float_val) of Value, four bytes
_FLOAT_CELL = np.dtype([("tag", "u1"), ("value", "<f4")])
_NULL_FLOAT = struct.pack("<Bf", _FLOAT_TAG, float("nan"))


class OnlineFeatures:
    """Reads the features last materialised; built once per process, safe among threads."""

    def __init__(self, workspace: Workspace) -> None:
        self._config = open_feature_store(workspace).config
        online_store = get_online_store_from_config(self._config.online_store)
        if not isinstance(online_store, WorkspaceRedisOnlineStore):
            raise ConfigError(
                f"online_store.type in feature_store.yaml is {self._config.online_store.type}; online reads decode "
                "Redis values and need feature_repo.stores.redis.WorkspaceRedisOnlineStore"
            )
        self._store = online_store

    def read(self, entity: str, ids: NDArray[np.int64], views: Sequence[str] | None = None) -> Columns:
        """Features of `views` (default: all of the entity) for each id, [N] or [N, L]; an unknown id reads as null.

        `entity` is user, post or creator. Raises StoreUnavailableError when Redis does not answer.
        """
        names = self._views(entity, views)
        fields = [(f"{view}__{f.name}", f, _mmh3(f"{view}:{f.name}")) for view in names for f in VIEWS[view].fields]
        keys = self._keys(JOIN_KEYS[entity], np.asarray(ids, dtype=np.int64))
        rows = self._store.read_hashes(self._config, keys, [code for _, _, code in fields]) if keys else []
        by_field = list(zip(*rows, strict=True)) if rows else [()] * len(fields)
        try:
            return {name: _decode(f, values) for (name, f, _), values in zip(fields, by_field, strict=True)}
        except (ValueError, TypeError) as error:
            raise FeatureStoreError(
                f"a value of {', '.join(names)} in Redis is not of its declared type ({error}); "
                "run `python -m feature_repo materialize` again"
            ) from error

    def _views(self, entity: str, views: Sequence[str] | None) -> Sequence[str]:
        if entity not in ENTITY_VIEWS:
            raise ValueError(f"entity {entity!r} is none of {', '.join(ENTITY_VIEWS)}")
        for view in views or ():
            if view not in ENTITY_VIEWS[entity]:
                raise ValueError(f"view {view!r} is not about a {entity}; those are {', '.join(ENTITY_VIEWS[entity])}")
        return ENTITY_VIEWS[entity] if views is None else views

    def _keys(self, join_key: str, ids: NDArray[np.int64]) -> list[bytes]:
        """Feast's serialized entity keys; they differ in their last eight bytes, the id."""
        version = self._config.entity_key_serialization_version
        example = serialize_entity_key(EntityKey(join_keys=[join_key], entity_values=[Value(int64_val=0)]), version)
        prefix, packed = example[:-8], ids.astype("<i8").tobytes()
        return [prefix + packed[i : i + 8] for i in range(0, len(packed), 8)]


def _decode(field: FeatureField, values: Sequence[bytes | None]) -> np.ndarray:
    """One feature of every entity from serialized `Value`s; missing and empty ones are null."""
    match field.dtype:
        case "float":
            return _decode_floats(values)
        case "int":
            return np.fromiter((_int(v) for v in values), dtype=np.int64, count=len(values))
        case "str":
            texts = np.empty(len(values), dtype=object)
            texts[:] = [Value.FromString(v).string_val if v else "" for v in values]
            return texts
        case "ints":
            return _decode_lists(values, np.full((len(values), field.length), -1, dtype=np.int64), "int64_list_val")
        case _:
            return _decode_lists(values, np.zeros((len(values), field.length), dtype=np.float32), "float_list_val")


def _decode_floats(values: Sequence[bytes | None]) -> NDArray[np.float32]:
    cells = np.frombuffer(b"".join(v or _NULL_FLOAT for v in values), dtype=_FLOAT_CELL)
    if len(cells) != len(values) or (cells["tag"] != _FLOAT_TAG).any():
        raise ValueError("expected a float")
    return cells["value"].astype(np.float32)


def _int(raw: bytes | None) -> int:
    value = Value.FromString(raw) if raw else None
    return value.int64_val if value is not None and value.WhichOneof("val") == "int64_val" else -1


def _decode_lists(values: Sequence[bytes | None], out: np.ndarray, kind: str) -> np.ndarray:
    for row, raw in enumerate(values):
        if raw:
            items = getattr(Value.FromString(raw), kind).val[: out.shape[1]]
            out[row, : len(items)] = items
    return out
