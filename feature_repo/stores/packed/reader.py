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
from feature_repo.stores.packed.connect import view_name
from feature_repo.stores.packed.keys import IdBlock, entities_of_arrow, entities_of_ids, int64_head
from feature_repo.stores.packed.server import SingleServer
from feature_repo.stores.packed.store import PackedOnlineStore
from feature_repo.stores.packed.unpack import Unpacked

Ids = Mapping[str, NDArray[np.int64] | Sequence[Any]]
"""Values by join key, [N] each, or [1] for one that all rows share."""


@dataclass(frozen=True)
class _KeyGroup:
    """Views that share their join keys, so that their entities are serialized once."""

    types: Mapping[str, Any]
    views: tuple[int, ...]


@dataclass(frozen=True)
class _Entities:
    """The distinct entities of a read: ids of one int64 join key, or serialized ones."""

    join_key: str
    ids: NDArray[np.int64] | None
    others: Sequence[bytes]
    places: NDArray[np.int64] | None
    """Which of them each row wants, [N]; None where each row has its own, in order."""

    def __len__(self) -> int:
        return len(self.others) if self.ids is None else len(self.ids)

    @property
    def serialized(self) -> Sequence[bytes]:
        return self.others if self.ids is None else entities_of_ids(self.join_key, self.ids)


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
        plan = self._plan(ids)
        return self._block(self._fetch(plan), plan)

    async def read_async(self, ids: Ids) -> FeatureBlock:
        """The same, awaiting Redis."""
        plan = self._plan(ids)
        server, blocks = self._store.server(self._config), self._id_blocks(plan)
        if blocks is not None and isinstance(server, SingleServer):
            return self._block(await server.read_ids_async(blocks), plan)
        return self._block(await server.read_async(self._keys(plan)), plan)

    def rows(self, ids: Ids) -> list[Unpacked]:
        """Packed rows of every view in the order of `views`, [N] each."""
        plan = self._plan(ids)
        found = dict(self._unpacked(self._fetch(plan), plan))
        return [found[place] for place in range(len(self.views))]

    def _fetch(self, plan: list[_Entities]) -> list[bytes | None]:
        server, blocks = self._store.server(self._config), self._id_blocks(plan)
        if blocks is not None and isinstance(server, SingleServer):
            return server.read_ids(blocks)
        return server.read(self._keys(plan))

    def _plan(self, ids: Ids) -> list[_Entities]:
        num_rows = max((len(v) for v in ids.values()), default=0)
        return [_entities(group.types, ids, num_rows) for group in self._groups]

    def _id_blocks(self, plan: list[_Entities]) -> list[IdBlock] | None:
        """Keys of every view as blocks of ids; None where a view has other keys."""
        blocks = []
        for group, entities in zip(self._groups, plan, strict=True):
            if entities.ids is None:
                return None
            head = int64_head(entities.join_key)
            blocks += [IdBlock(self._space.prefix(self._names[view]) + head, entities.ids) for view in group.views]
        return blocks

    def _keys(self, plan: list[_Entities]) -> list[bytes]:
        keys: list[bytes] = []
        for group, entities in zip(self._groups, plan, strict=True):
            for view in group.views:
                keys += self._space.keys(self._names[view], entities.serialized)
        return keys

    def _unpacked(self, raw: Sequence[bytes | None], plan: list[_Entities]) -> Iterator[tuple[int, Unpacked]]:
        start = 0
        for group, entities in zip(self._groups, plan, strict=True):
            for place in group.views:
                of_view = raw[start : start + len(entities)]
                start += len(entities)
                blocks = self.views[place]
                rows, _ = self._store.unpack(self._config, blocks.view, of_view, blocks.layout)
                yield place, rows if entities.places is None else rows.take(entities.places)

    def _block(self, raw: Sequence[bytes | None], plan: list[_Entities]) -> FeatureBlock:
        block: FeatureBlock | None = None
        now_us = self._store.now_us(self._config)
        for place, rows in self._unpacked(raw, plan):
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


def _entities(types: Mapping[str, Any], ids: Ids, num_rows: int) -> _Entities:
    missing = sorted(set(types) - set(ids))
    if missing:
        raise InputError(f"no ids for join key {', '.join(missing)}; given are {', '.join(sorted(ids))}")
    if any(len(ids[name]) not in (1, num_rows) for name in types):
        sizes = {name: len(values) for name, values in ids.items()}
        raise InputError(f"ids of different lengths {sizes}; expected {num_rows} or 1 of each")
    if len(types) == 1:
        ((name, of),) = types.items()
        column = np.asarray(ids[name])
        if of.name == "INT64" and column.dtype.kind == "i":
            return _of_ids(name, column, num_rows)
    columns = {name: (types[name], pa.array(np.broadcast_to(np.asarray(ids[name]), num_rows))) for name in types}
    return _Entities("", None, entities_of_arrow(columns), None)


def _of_ids(join_key: str, column: NDArray[np.int64], num_rows: int) -> _Entities:
    """Every id once, and which row wants which; rows that share one id read it once."""
    if len(column) == num_rows and len(set(column.tolist())) == num_rows:
        return _Entities(join_key, column, [], None)
    distinct, places = np.unique(column, return_inverse=True)
    return _Entities(join_key, distinct, [], np.broadcast_to(places, num_rows))
