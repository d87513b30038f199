"""Brings Redis up to the platform's now: the latest row of every key that was known by then."""

import contextlib
import io
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from core.clock import Clock
from core.errors import FeatureStoreError, InputError, MissingStageError, VitrineError
from core.files import write_atomically
from core.workspace import Workspace
from feature_repo.build import read_build
from feature_repo.catalog import EXPORTED_VIEWS, VIEWS
from feature_repo.exported import read_exports
from feature_repo.store import open_feature_store
from feature_repo.stores.embedded import save_soon

if TYPE_CHECKING:
    from feast import FeatureStore

    from feature_repo.stores.packed.server import RowServer

RECORD = "materialized.json"


@dataclass(frozen=True)
class ViewMaterialization:
    """One view in Redis: the span that was read, the seconds it took, rows read and rows that were news.

    The numbers of rows are None where another engine than ours did the work.
    """

    view: str
    since: datetime
    until: datetime
    seconds: float
    num_rows: int | None
    num_written: int | None


@dataclass(frozen=True)
class _Record:
    """Which build and which exports Redis holds; kept beside the registry."""

    generation: str
    build: str
    exports: dict[str, str] = field(default_factory=dict)
    token: str = ""
    """Kept in Redis too: one that came back empty or with an older save does not know it."""


def materialize(
    workspace: Workspace, clock: Clock, on_view: Callable[[ViewMaterialization], None] = lambda _: None
) -> list[ViewMaterialization]:
    """Materialises every view up to `clock`'s now through Feast, calling `on_view` after each.

    After a build of new events everything is read again and Redis skips what it has. Where no build
    happened since, only rows that became known meanwhile are read. Where the values of old rows may
    have changed (other data set, other feature code, a view exported anew), Redis is emptied of them first.
    """
    build = read_build(workspace)
    store = open_feature_store(workspace)
    registered = {v.name for v in store.list_batch_feature_views()}
    if not {*VIEWS, *EXPORTED_VIEWS} <= registered:
        raise MissingStageError("Feast registry with every view", workspace.data, "python -m feature_repo apply")
    now = clock.now()
    exports = {name: f"{e.made_by} {e.rows} {e.last_known_at}" for name, e in read_exports(workspace).items()}
    token = secrets.token_hex(8)
    wanted = _Record(str(build["generation"]), json.dumps(build["views"], sort_keys=True), exports, token)
    held = _read_record(workspace)
    mark = _mark_of(store, workspace)
    if held is not None and mark is not None and mark.read() != held.token:
        held = None
    if held is not None and held.generation != wanted.generation:
        _empty_online_store(store, list(VIEWS))
    is_new = dict.fromkeys(VIEWS, held is None or (held.generation, held.build) != (wanted.generation, wanted.build))
    for name, made in exports.items():
        is_new[name] = held is None or held.exports.get(name) != made
        if is_new[name]:
            _empty_online_store(store, [name])
    done = []
    for name in is_new:
        result = _materialize_view(store, name, now, is_new_build=is_new[name])
        on_view(result)
        done.append(result)
    write_atomically(workspace.data / RECORD, json.dumps(asdict(wanted)))
    if mark is not None:
        mark.write(token)
    save_soon(workspace)
    return done


@dataclass(frozen=True)
class _Mark:
    """What the online store itself says of the last materialisation."""

    server: "RowServer"
    key: bytes

    def read(self) -> str | None:
        found = self.server.read([self.key])[0]
        return None if found is None else found.decode()

    def write(self, token: str) -> None:
        self.server.mark(self.key, token.encode())


def _mark_of(store: "FeatureStore", workspace: Workspace) -> _Mark | None:
    """None where another store than the packed one serves."""
    from feature_repo.stores.packed.store import PackedOnlineStore

    online = store._get_provider().online_store
    if not isinstance(online, PackedOnlineStore):
        return None
    return _Mark(online.server(store.config), f"{store.config.project}:{workspace.root.name}:materialized".encode())


def _materialize_view(store: "FeatureStore", name: str, now: datetime, is_new_build: bool) -> ViewMaterialization:
    from feature_repo.stores.packed.engine import PackedEngine  # takes seconds, as Feast does

    started = time.monotonic()
    view, engine = store.get_feature_view(name), store._get_provider().batch_engine
    if isinstance(engine, PackedEngine):
        engine.last = None
    since = view.most_recent_end_time
    if since is None or is_new_build:
        since = now - (view.ttl or (now - datetime(1970, 1, 1, tzinfo=UTC)))
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):  # Feast prints; the caller shows progress
            if is_new_build or view.most_recent_end_time is None:
                store.materialize(start_date=since, end_date=now, feature_views=[name])
            elif since < now:
                store.materialize_incremental(end_date=now, feature_views=[name])
    except VitrineError:
        raise
    except Exception as error:
        raise FeatureStoreError(
            f"Feast could not materialise {name} up to {now.isoformat()}: {error}; {said.getvalue()[-200:]}"
        ) from error
    done = engine.last if isinstance(engine, PackedEngine) else None
    counts = (done.num_rows, done.num_written) if done else (None, None)
    return ViewMaterialization(name, since, now, round(time.monotonic() - started, 2), *counts)


def _empty_online_store(store: "FeatureStore", names: list[str]) -> None:
    views = [view for view in store.list_batch_feature_views() if view.name in names]
    store._get_provider().online_store.teardown(store.config, views, [])


def _read_record(workspace: Workspace) -> _Record | None:
    path = workspace.data / RECORD
    if not path.exists():
        return None
    try:
        return _Record(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path} is not a materialisation record ({error}); delete it and materialise again"
        ) from error
