"""The direct read: many entities × the features of several views, in one round trip, as numpy blocks.

No Feast response and no Python object per value. The online store answers the same through Feast.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from feast import FeatureService, FeatureStore, RepoConfig
from numpy.typing import NDArray

from core.errors import ConfigError, InputError
from feature_repo.stores.packed.blocks import FeatureBlock, ViewBlocks, empty_block
from feature_repo.stores.packed.keys import entities_of_arrow, entities_of_ids
from feature_repo.stores.packed.store import PackedOnlineStore, view_name
from feature_repo.stores.packed.unpack import Unpacked

Ids = Mapping[str, NDArray[np.int64] | Sequence[Any]]
"""Values by join key, [N] each, or [1] for one that all rows share."""


@dataclass(frozen=True)
class _KeyGroup:
    """Views that share their join keys, so that their entities are serialized once."""

    types: Mapping[str, Any]
    views: tuple[int, ...]


class PackedReader:
    """Reads a fixed choice of features; built once, safe among threads."""

    def __init__(
        self, store: PackedOnlineStore, config: RepoConfig, choice: Sequence[tuple[Any, Sequence[str]]]
    ) -> None:
        """`choice` names views and their features in the order of the block's columns.

        Raises ConfigError for a feature without a column form (maps, sets, lists of strings).
        """
        self._store, self._config = store, config
        self._space = store.key_space(config)
        self._names = [view_name(config, view) for view, _ in choice]
        self.views = [ViewBlocks(view, features) for view, features in choice]
        self._empty = empty_block(self.views)
        groups: dict[tuple[tuple[str, Any], ...], list[int]] = {}
        for place, (view, _) in enumerate(choice):
            types = tuple(sorted((f.name, f.dtype.to_value_type()) for f in view.entity_columns))
            groups.setdefault(types, []).append(place)
        self._groups = [_KeyGroup(dict(types), tuple(views)) for types, views in groups.items()]

    @classmethod
    def of_service(cls, feature_store: FeatureStore, service: str | FeatureService) -> "PackedReader":
        """Reader of a service's stored features; its on-demand views are left to their own code.

        Raises ConfigError where feature_store.yaml has another online store.
        """
        found = feature_store.get_feature_service(service) if isinstance(service, str) else service
        stored = {v.name: v for v in feature_store.list_batch_feature_views()}
        choice = [
            (stored[p.name], [f.name for f in p.features]) for p in found.feature_view_projections if p.name in stored
        ]
        return cls(packed_store(feature_store), feature_store.config, choice)

    def read(self, ids: Ids) -> FeatureBlock:
        """Features of every row of `ids`; an unknown or expired entity is null and its age NaN.

        Raises InputError for a missing join key, StoreUnavailableError when Redis does not answer.
        """
        keys, places = self._plan(ids)
        return self._block(self._store.server(self._config).read(keys), places)

    async def read_async(self, ids: Ids) -> FeatureBlock:
        """The same, awaiting Redis."""
        keys, places = self._plan(ids)
        return self._block(await self._store.server(self._config).read_async(keys), places)

    def rows(self, ids: Ids) -> list[Unpacked]:
        """Packed rows of every view in the order of `views`, [N] each."""
        keys, places = self._plan(ids)
        raw = self._store.server(self._config).read(keys)
        return [rows for _, rows in sorted(self._unpacked(raw, places), key=lambda pair: pair[0])]

    def _plan(self, ids: Ids) -> tuple[list[bytes], list[tuple[int, NDArray[np.int64] | None]]]:
        """Keys to fetch, and per group how many entities they are and which row wants which."""
        num_rows = max((len(v) for v in ids.values()), default=0)
        keys: list[bytes] = []
        places = []
        for group in self._groups:
            entities, of_rows = _entities(group.types, ids, num_rows)
            places.append((len(entities), of_rows))
            for view in group.views:
                keys += self._space.keys(self._names[view], entities)
        return keys, places

    def _unpacked(
        self, raw: Sequence[bytes | None], places: Sequence[tuple[int, NDArray[np.int64] | None]]
    ) -> Iterator[tuple[int, Unpacked]]:
        start = 0
        for group, (num_entities, of_rows) in zip(self._groups, places, strict=True):
            for place in group.views:
                of_view = raw[start : start + num_entities]
                start += num_entities
                rows, _ = self._store.unpack(self._config, self.views[place].view, of_view)
                yield place, rows if of_rows is None else rows.take(of_rows)

    def _block(
        self, raw: Sequence[bytes | None], places: Sequence[tuple[int, NDArray[np.int64] | None]]
    ) -> FeatureBlock:
        block: FeatureBlock | None = None
        now_us = self._store.now_us(self._config)
        for place, rows in self._unpacked(raw, places):
            block = block or self._empty(len(rows))
            self.views[place].fill(block, place, rows, now_us)
        return block or self._empty(0)


def packed_store(feature_store: FeatureStore) -> PackedOnlineStore:
    """The packed store behind a Feast store. Raises ConfigError where feature_store.yaml names another."""
    found = feature_store._get_provider().online_store
    if not isinstance(found, PackedOnlineStore):
        raise ConfigError(
            f"online_store.type in feature_store.yaml is {feature_store.config.online_store.type}; direct reads need "
            "feature_repo.stores.packed.store.PackedOnlineStore (get_online_features works with either)"
        )
    return found


def _entities(types: Mapping[str, Any], ids: Ids, num_rows: int) -> tuple[list[bytes], NDArray[np.int64] | None]:
    """Distinct serialized entities, and the place of every row's among them; None where each row has its own."""
    missing = sorted(set(types) - set(ids))
    if missing:
        raise InputError(f"no ids for join key {', '.join(missing)}; given are {', '.join(sorted(ids))}")
    if any(len(ids[name]) not in (1, num_rows) for name in types):
        sizes = {name: len(values) for name, values in ids.items()}
        raise InputError(f"ids of different lengths {sizes}; expected {num_rows} or 1 of each")
    if len(types) == 1:
        ((name, _),) = types.items()
        column = np.asarray(ids[name])
        if column.dtype.kind == "i":
            distinct, of_rows = np.unique(column, return_inverse=True)
            if len(distinct) == num_rows:
                return entities_of_ids(name, column), None
            return entities_of_ids(name, distinct), np.broadcast_to(of_rows, num_rows)
    columns = {name: (types[name], pa.array(np.broadcast_to(np.asarray(ids[name]), num_rows))) for name in types}
    return entities_of_arrow(columns), None
