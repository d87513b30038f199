"""The direct read: many entities × the features of several views, in one round trip, as numpy blocks.

No Feast response and no Python object per value. The online store answers the same through Feast.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from feast import FeatureService, FeatureStore, RepoConfig
from numpy.typing import NDArray

from core.errors import ConfigError
from feature_repo.stores.packed.blocks import BlockForm, FeatureBlock, ViewBlocks
from feature_repo.stores.packed.connect import view_name
from feature_repo.stores.packed.groups import Entities, Ids, KeyGroup
from feature_repo.stores.packed.keys import IdKeys, mget_command
from feature_repo.stores.packed.parts import Part
from feature_repo.stores.packed.server import SingleServer
from feature_repo.stores.packed.store import PackedOnlineStore
from feature_repo.stores.packed.unpack import Unpacked
from feature_repo.stores.packed.wide import WideRows


class PackedReader:
    """Reads a fixed choice of features; built once, safe among threads."""

    def __init__(
        self, store: PackedOnlineStore, config: RepoConfig, choice: Sequence[tuple[Any, Sequence[str]]]
    ) -> None:
        """`choice` names views and their features in the order of the block's columns.

        Raises ConfigError for a feature without a column form (maps, sets, lists of strings).
        """
        self._store, self._config = store, config
        self._views: list[ViewBlocks] = []
        for view, features in choice:
            self._views.append(ViewBlocks(view, features, self._views[-1] if self._views else None))
        self._form = BlockForm(self._views)
        space, names = store.key_space(config), [view_name(config, view) for view, _ in choice]
        by_types: dict[tuple[tuple[str, Any], ...], dict[int, ViewBlocks]] = {}
        for place, (view, _) in enumerate(choice):
            types = tuple(sorted((f.name, f.dtype.to_value_type()) for f in view.entity_columns))
            by_types.setdefault(types, {})[place] = self._views[place]
        self._groups = [KeyGroup(space, names, dict(types), views) for types, views in by_types.items()]

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
        num_rows, plan = self._plan(ids)
        return self._block(self._fetch(plan), plan, num_rows)

    async def read_async(self, ids: Ids) -> FeatureBlock:
        """The same, awaiting Redis."""
        num_rows, plan = self._plan(ids)
        server, command = self._store.server(self._config), self._command(plan)
        if command and isinstance(server, SingleServer):
            return self._block(await server.read_packed_async(command), plan, num_rows)
        return self._block(await server.read_async(self._keys(plan)), plan, num_rows)

    def rows(self, ids: Ids) -> list[Unpacked]:
        """Packed rows of every view in the order of the reader's choice, [N] each."""
        _, plan = self._plan(ids)
        parts = self._unpacked(self._fetch(plan), plan, self._store.now_us(self._config))
        found = {place: wide.view(i) for part, wide in parts for i, place in enumerate(part.places)}
        return [found[place] for place in range(len(self._views))]

    def _plan(self, ids: Ids) -> tuple[int, list[Entities]]:
        """Number of rows, and the entities of every group."""
        num_rows = max(map(len, ids.values()), default=0)
        return num_rows, [group.entities(ids, num_rows) for group in self._groups]

    def _fetch(self, plan: list[Entities]) -> list[bytes | None]:
        server, command = self._store.server(self._config), self._command(plan)
        if command and isinstance(server, SingleServer):
            return server.read_packed(command)
        return server.read(self._keys(plan))

    def _command(self, plan: list[Entities]) -> bytes | None:
        """The command that fetches ids; None where a view has other keys, or there are no ids."""
        keys: list[tuple[IdKeys, NDArray[np.int64]]] = []
        for group, entities in zip(self._groups, plan, strict=True):
            if entities.ids is None or not len(entities.ids):
                return None
            keys += group.id_keys(entities.ids)
        return mget_command(keys)

    def _keys(self, plan: list[Entities]) -> list[bytes]:
        return [key for group, entities in zip(self._groups, plan, strict=True) for key in group.keys(entities)]

    def _unpacked(
        self, raw: Sequence[bytes | None], plan: list[Entities], now_us: int
    ) -> Iterator[tuple[Part, WideRows]]:
        start = 0
        for group, entities in zip(self._groups, plan, strict=True):
            for part in group.parts:
                end = start + len(entities) * len(part.places)
                rows = self._store.counted(part.wide.unpack(raw[start:end], now_us))
                yield part, rows if entities.places is None else rows.take(entities.places)
                start = end

    def _block(self, raw: Sequence[bytes | None], plan: list[Entities], num_rows: int) -> FeatureBlock:
        block, now_us = self._form.empty(num_rows), self._store.now_us(self._config)
        for part, rows in self._unpacked(raw, plan, now_us):
            part.fill(block, rows, now_us)
        return block


def packed_store(feature_store: FeatureStore) -> PackedOnlineStore:
    """The packed store behind a Feast store. Raises ConfigError where feature_store.yaml names another."""
    found = feature_store._get_provider().online_store
    if not isinstance(found, PackedOnlineStore):
        raise ConfigError(
            f"online_store.type in feature_store.yaml is {feature_store.config.online_store.type}; direct reads need "
            "feature_repo.stores.packed.store.PackedOnlineStore (get_online_features works with either)"
        )
    return found
