"""Online rows of a grown workspace: the original's packed rows under the ids of the copies, in a Redis of their own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import redis
from rich.progress import track

from benchmarks.serving_world import Ids, copied_ids
from core.settings import Settings
from core.workspace import Workspace
from feature_repo.catalog import ENTITY_VIEWS, JOIN_KEYS
from feature_repo.store import open_feature_store
from feature_repo.stores.embedded import redis_url
from feature_repo.stores.packed.connect import key_space
from feature_repo.stores.packed.keys import entities_of_ids
from serving.snapshot import load_snapshot
from tests.redis_servers import free_ports, redis_server

MEMORY = "4gb"
BATCH_IDS = 2_000


@contextmanager
def filled_redis(source: Workspace, workspace: Workspace, settings: Settings) -> Iterator[str]:
    """URL of a running Redis with the rows of every post, user and creator; its dump is kept for the next run."""
    folder = workspace.root / "redis"
    folder.mkdir(exist_ok=True)
    is_full = (folder / "dump.rdb").exists()
    port = free_ports(1)[0]
    options = ("--dir", str(folder), "--maxmemory", MEMORY, "--maxmemory-policy", "noeviction", "--loglevel", "warning")
    with redis_server(*options, port=port):
        url = f"redis://127.0.0.1:{port}/0"
        if not is_full:
            with redis.Redis.from_url(redis_url(source, settings)) as old, redis.Redis.from_url(url) as new:
                copy_rows(source, workspace, old, new)
                new.save()
        yield url


def server_process(url: str) -> int:
    """Process id of the Redis at `url`."""
    with redis.Redis.from_url(url) as client:
        return int(client.info("server")["process_id"])


def copy_rows(source: Workspace, workspace: Workspace, old: redis.Redis, new: redis.Redis) -> None:
    """Writes the rows of `old` to `new` for the original ids and their copies."""
    before, after = load_snapshot(source), load_snapshot(workspace)
    spaces = [key_space(open_feature_store(w).config) for w in (source, workspace)]
    entities: dict[str, tuple[Ids, int]] = {
        "user": (before.users.user_ids, len(after.users.user_ids)),
        "post": (before.catalogue.post_ids, len(after.catalogue)),
        "creator": (np.unique(before.catalogue.creator_ids), 0),
    }
    for entity, (ids, wanted) in entities.items():
        new_ids = copied_ids(ids, wanted) if wanted else ids
        for start in track(range(0, len(ids), BATCH_IDS), f"online rows of every {entity}"):
            some = ids[start : start + BATCH_IDS]
            for view in ENTITY_VIEWS[entity]:
                rows = old.mget(spaces[0].keys(view, entities_of_ids(JOIN_KEYS[entity], some)))
                for first in range(start, len(new_ids), len(ids)):
                    copies = new_ids[first : first + len(some)]
                    keys = spaces[1].keys(view, entities_of_ids(JOIN_KEYS[entity], copies))
                    found = {key: row for key, row in zip(keys, rows, strict=False) if row is not None}
                    if found:
                        new.mset(found)


def stored_bytes(path: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
