"""The entities of a direct read and the keys of their rows, for views that share their join keys."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from core.errors import InputError
from feature_repo.stores.packed.blocks import ViewBlocks
from feature_repo.stores.packed.keys import IdKeys, KeySpace, entities_of_arrow, entities_of_ids, int64_head
from feature_repo.stores.packed.parts import Part

Ids = Mapping[str, NDArray[np.int64] | Sequence[Any]]
"""Values by join key, [N] each, or [1] for one that all rows share."""


@dataclass(frozen=True)
class Entities:
    """The distinct entities of a read: ids of one int64 join key, or serialized ones."""

    ids: NDArray[np.int64] | None
    others: Sequence[bytes] = ()
    places: NDArray[np.int64] | None = None
    """Which of them each row wants, [N]; None where each row has its own, in order."""

    def __len__(self) -> int:
        return len(self.others if self.ids is None else self.ids)


class KeyGroup:
    """Views that share their join keys, so that their entities are serialized once, in parts fetched together."""

    def __init__(
        self, space: KeySpace, names: Sequence[str], types: Mapping[str, Any], views: Mapping[int, ViewBlocks]
    ) -> None:
        """`names` are those of all views of the reader in Redis, `types` Feast's types by join key."""
        fixed = {place: view for place, view in views.items() if not view.layout.variable}
        others = [{place: view} for place, view in views.items() if view.layout.variable]
        self.parts = [Part(of) for of in ([fixed] if fixed else []) + others]
        self._space, self._types = space, types
        self._names = [[names[place] for place in part.places] for part in self.parts]
        self._id_name = next((n for n, of in types.items() if of.name == "INT64"), "") if len(types) == 1 else ""
        head = int64_head(self._id_name)
        self._id_keys = [IdKeys([space.prefix(name) + head for name in of_part]) for of_part in self._names]

    def entities(self, ids: Ids, num_rows: int) -> Entities:
        """The entities of `ids`. Raises InputError for a missing join key or a wrong number of ids."""
        values = ids.get(self._id_name)
        if values is None or len(values) not in (1, num_rows):
            return self._serialized(ids, num_rows)
        column = np.asarray(values)
        return _of_ids(column, num_rows) if column.dtype.kind == "i" else self._serialized(ids, num_rows)

    def id_keys(self, ids: NDArray[np.int64]) -> list[tuple[IdKeys, NDArray[np.int64]]]:
        """Keys of every part."""
        return [(keys, ids) for keys in self._id_keys]

    def keys(self, entities: Entities) -> list[bytes]:
        """The same, one by one: part by part, entity by entity, view by view."""
        others = entities.others if entities.ids is None else entities_of_ids(self._id_name, entities.ids)
        by_view = [[self._space.keys(name, others) for name in of_part] for of_part in self._names]
        return [key for of_part in by_view for of_entity in zip(*of_part, strict=True) for key in of_entity]

    def _serialized(self, ids: Ids, num_rows: int) -> Entities:
        missing = sorted(set(self._types) - set(ids))
        if missing:
            raise InputError(f"no ids for join key {', '.join(missing)}; given are {', '.join(sorted(ids))}")
        if any(len(ids[name]) not in (1, num_rows) for name in self._types):
            sizes = {name: len(values) for name, values in ids.items()}
            raise InputError(f"ids of different lengths {sizes}; expected {num_rows} or 1 of each")
        columns = {n: (of, pa.array(np.broadcast_to(np.asarray(ids[n]), num_rows))) for n, of in self._types.items()}
        return Entities(None, entities_of_arrow(columns))


def _of_ids(column: NDArray[np.int64], num_rows: int) -> Entities:
    """Every id once, and which row wants which; rows that share one id read it once."""
    if len(column) == num_rows and len(set(column.tolist())) == num_rows:
        return Entities(column)
    distinct, places = np.unique(column, return_inverse=True)
    return Entities(distinct, (), np.broadcast_to(places, num_rows))
