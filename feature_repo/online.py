"""Online features of users, posts and creators, as `Columns` equal to what training joined."""

from collections.abc import Sequence

import numpy as np
from feast import FeatureView
from numpy.typing import NDArray

from core.workspace import Workspace
from feature_repo import definitions
from feature_repo.catalog import ALL_VIEWS, ENTITY_VIEWS, JOIN_KEYS, FeatureField
from feature_repo.columns import Columns
from feature_repo.store import open_feature_store
from feature_repo.stores.packed.reader import PackedReader, packed_store
from feature_repo.stores.packed.unpack import Unpacked


class OnlineFeatures:
    """Reads the features last materialised; built once per process, safe among threads."""

    def __init__(self, workspace: Workspace, wait_seconds: float | None = None) -> None:
        """`wait_seconds`: longest wait for one answer of Redis; None leaves it to the store, for batches."""
        feature_store = open_feature_store(workspace)
        self._config = feature_store.config
        self._store = packed_store(feature_store)
        self._store.wait_seconds = wait_seconds
        # From the definitions, not the registry: the code that reads knows the schema it was written for.
        self._defined = {v.name: v for v in vars(definitions).values() if isinstance(v, FeatureView)}
        self._readers: dict[tuple[str, ...], PackedReader] = {}

    @property
    def num_foreign_rows(self) -> int:
        """Rows of another schema met so far; they read as null until materialised again."""
        return self._store.num_foreign_rows

    def read(self, entity: str, ids: NDArray[np.int64], views: Sequence[str] | None = None) -> Columns:
        """Features of `views` (default: all of the entity) for each id, [N] or [N, L]; an unknown id reads as null.

        `entity` is user, post or creator. Raises StoreUnavailableError when Redis does not answer.
        """
        names = self._views(entity, views)
        found = self._reader(names).rows({JOIN_KEYS[entity]: np.asarray(ids, dtype=np.int64)})
        columns: Columns = {}
        for view, rows in zip(names, found, strict=True):
            columns |= _columns(view, rows)
        return columns

    def _views(self, entity: str, views: Sequence[str] | None) -> tuple[str, ...]:
        if entity not in ENTITY_VIEWS:
            raise ValueError(f"entity {entity!r} is none of {', '.join(ENTITY_VIEWS)}")
        for view in views or ():
            if view not in ENTITY_VIEWS[entity]:
                raise ValueError(f"view {view!r} is not about a {entity}; those are {', '.join(ENTITY_VIEWS[entity])}")
        return ENTITY_VIEWS[entity] if views is None else tuple(views)

    def _reader(self, names: tuple[str, ...]) -> PackedReader:
        if names not in self._readers:
            choice = [(self._defined[name], [f.name for f in ALL_VIEWS[name].fields]) for name in names]
            self._readers[names] = PackedReader(self._store, self._config, choice)
        return self._readers[names]


def _columns(view: str, rows: Unpacked) -> Columns:
    """Every feature of one view by full name."""
    fields = ALL_VIEWS[view].fields
    # One transposed copy of all floats; each column of it is contiguous.
    floats = np.ascontiguousarray(rows.records["<f4"].T) if any(f.dtype == "float" for f in fields) else None
    columns: Columns = {}
    for field in fields:
        if field.dtype == "float" and floats is not None:
            columns[f"{view}__{field.name}"] = floats[rows.layout.columns[field.name]]
        else:
            columns[f"{view}__{field.name}"] = _column(field, rows)
    return columns


def _column(field: FeatureField, rows: Unpacked) -> np.ndarray:
    match field.dtype:
        case "int":
            return np.where(rows.nulls[:, rows.layout.bits[field.name]], -1, rows.scalars(field.name))
        case "str":
            texts = np.empty(len(rows), dtype=object)
            texts[:] = [t.decode() for t in rows.strings(field.name)]
            return texts
        case "ints":
            return rows.padded(field.name, field.length, -1)
        case _:
            return rows.padded(field.name, field.length, 0.0)
