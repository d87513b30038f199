"""A workspace grown to many posts and users: copies of a finished one's, each a little different.

Bundles are the original's. A copied post has a new id, vectors moved by JITTER of their length and lists that lead to
any copy of what the original's led to; a copied user has the original's lists and features under a new id.
"""

import json
import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from core.errors import MissingStageError
from core.files import file_hash, write_atomically
from core.signatures import sign_folder
from core.workspace import Workspace
from models.ann import WIDTH_MULTIPLE, champion_index, publish_index, write_index
from serving.snapshot import Catalogue, Lists, Ragged, Snapshot, Texts, Users, load_snapshot, save_snapshot

JITTER = 0.1
"""Length of what is added to a copy's vector, as a share of the vector's own."""
SEED = 11
CHUNK_ROWS = 100_000

Ids = NDArray[np.int64]


def require_finished(workspace: Workspace) -> None:
    """Raises MissingStageError unless the main job has left everything that the funnel needs."""
    wanted = {
        "dataset": workspace.manifest_path,
        "serving snapshot": workspace.snapshot / "current.json",
        "retrieval index": workspace.index / "champion.json",
        **{
            f"{k} bundle": workspace.bundles / k / "champion.json" for k in ("retrieval", "first_stage", "second_stage")
        },
        "Feast registry": workspace.data / "registry.db",
    }
    for what, path in wanted.items():
        if not path.exists():
            raise MissingStageError(what, path, "make pipeline")


def copied_ids(ids: Ids, wanted: int) -> Ids:
    """`wanted` ids: those given, then new ones from the next number on; copy c of id i is at c × len(ids) + i."""
    return np.concatenate([ids, int(ids.max()) + 1 + np.arange(max(0, wanted - len(ids)))])[:wanted]


def grown(source: Workspace, folder: Path, num_posts: int, num_users: int) -> Workspace:
    """The workspace `folder`, filled unless an earlier run left it whole."""
    workspace = Workspace(folder)
    stamp = {"posts": num_posts, "users": num_users, "jitter": JITTER, "width": WIDTH_MULTIPLE, **_champions(source)}
    stamp["key"] = source.verify_key.read_text() if source.verify_key.exists() else None
    mark = folder / "grown.json"
    if mark.exists() and json.loads(mark.read_text()) == stamp:
        return workspace
    folder.mkdir(parents=True, exist_ok=True)
    mark.unlink(missing_ok=True)
    workspace.bundles.unlink(missing_ok=True)
    workspace.bundles.symlink_to(source.bundles.resolve(), target_is_directory=True)
    workspace.data.mkdir(exist_ok=True)
    for name in ("registry.db", "materialized.json"):
        if (source.data / name).exists():
            shutil.copy(source.data / name, workspace.data / name)
    workspace.write_manifest(source.manifest())
    snapshot = load_snapshot(source)
    rng = np.random.default_rng(SEED)
    post_ids = copied_ids(snapshot.catalogue.post_ids, num_posts)
    save_snapshot(workspace, _grown_snapshot(snapshot, post_ids, num_users, rng))
    _grow_index(source, workspace, snapshot.catalogue, post_ids, rng)
    _grow_vectors(source, workspace, snapshot.catalogue, post_ids, rng)
    shutil.copy(source.verify_key, workspace.verify_key)  # what was grown is signed with the original's key
    write_atomically(mark, json.dumps(stamp | {"key": source.verify_key.read_text()}))
    return workspace


def _champions(workspace: Workspace) -> dict[str, str]:
    pointers = [workspace.bundles / k / "champion.json" for k in ("retrieval", "first_stage", "second_stage")]
    pointers += [workspace.index / "champion.json", workspace.snapshot / "current.json"]
    return {path.relative_to(workspace.root).as_posix(): path.read_text() for path in pointers}


def _grown_snapshot(snapshot: Snapshot, post_ids: Ids, num_users: int, rng: np.random.Generator) -> Snapshot:
    old, num_posts = snapshot.catalogue, len(post_ids)

    def spread(lists: Ragged) -> Ragged:
        """The same lists with each post replaced by any copy of it."""
        copies = (num_posts - 1 - lists.values) // len(old) + 1
        chosen = (rng.random(len(lists.values)) * copies).astype(np.int64)
        return Ragged(lists.offsets, lists.values + chosen * len(old), lists.weights)

    user_ids = copied_ids(snapshot.users.user_ids, num_users)
    users = snapshot.users
    return replace(
        snapshot,
        snapshot_id=f"{snapshot.snapshot_id}-{num_posts}",
        catalogue=_grown_catalogue(old, post_ids, rng),
        lists=Lists(
            neighbours=spread(_repeated(snapshot.lists.neighbours, num_posts)),
            **{n: spread(getattr(snapshot.lists, n)) for n in Lists.__dataclass_fields__ if n != "neighbours"},
        ),
        users=Users(
            user_ids,
            np.resize(users.language_codes, num_users),
            np.resize(users.country_codes, num_users),
            seen=spread(_repeated(users.seen, num_users)),
            hidden=spread(_repeated(users.hidden, num_users)),
            blocked=_repeated(users.blocked, num_users),
            followed=_repeated(users.followed, num_users),
        ),
        external_post_ids=_numbers_as_texts(post_ids) if snapshot.external_post_ids else None,
        external_creator_ids=_repeated_texts(snapshot.external_creator_ids, num_posts),
    )


def _grown_catalogue(old: Catalogue, post_ids: Ids, rng: np.random.Generator) -> Catalogue:
    columns = {n: getattr(old, n) for n in Catalogue.__dataclass_fields__}
    per_post = {n: v for n, v in columns.items() if isinstance(v, np.ndarray) and n not in ("post_ids", "content")}
    repeated: dict[str, Any] = {n: np.resize(v, len(post_ids)) for n, v in per_post.items()}
    return replace(old, post_ids=post_ids, content=jittered(old.content, len(post_ids), rng), **repeated)


def jittered(vectors_ND: NDArray[np.float32], count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """`count` vectors: those given, then copies moved in any direction, each as long as its original, [count, D]."""
    num, dim = vectors_ND.shape
    out = np.empty((count, dim), dtype=np.float32)
    for lo in range(0, count, CHUNK_ROWS):
        hi = min(lo + CHUNK_ROWS, count)
        near = vectors_ND[np.arange(lo, hi) % num]
        length = np.linalg.norm(near, axis=1, keepdims=True)
        moved = near + rng.standard_normal(near.shape, dtype=np.float32) * (JITTER * dim**-0.5) * length
        moved *= length / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)
        out[lo:hi] = moved
    out[: min(num, count)] = vectors_ND[:count]
    return out


def _repeated(lists: Ragged, count: int) -> Ragged:
    """`count` lists: those given over and over."""
    sizes = np.resize(np.diff(lists.offsets), count)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return Ragged(offsets, np.resize(lists.values, offsets[-1]), np.resize(lists.weights, offsets[-1]))


def _repeated_texts(texts: Texts | None, count: int) -> Texts | None:
    if texts is None:
        return None
    sizes = np.resize(np.diff(texts.offsets), count)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return Texts(offsets, np.resize(texts.utf8, offsets[-1]))


def _numbers_as_texts(ids: Ids) -> Texts:
    words = [str(i).encode() for i in ids.tolist()]
    offsets = np.concatenate([[0], np.cumsum([len(w) for w in words])]).astype(np.int64)
    return Texts(offsets, np.frombuffer(b"".join(words), dtype=np.uint8))


def _grow_index(
    source: Workspace, workspace: Workspace, old: Catalogue, post_ids: Ids, rng: np.random.Generator
) -> None:
    folder = champion_index(source.index)
    manifest = json.loads((folder / "manifest.json").read_text())
    index = faiss.read_index(str(folder / "index.faiss"))
    if hasattr(index, "make_direct_map"):
        index.make_direct_map()
    vectors = index.reconstruct_n(0, index.ntotal)[:, : manifest["dim"]]
    if (folder / "centre.npy").exists():
        vectors = vectors + np.load(folder / "centre.npy")
    ids, vectors = _in_order(np.load(folder / "post_ids.npy"), vectors, old)
    if len(ids) < len(post_ids):
        vectors = jittered(vectors, len(post_ids), rng)
    written = write_index(
        workspace.index, post_ids, vectors[: len(post_ids)], manifest["bundle_id"],
        datetime.fromisoformat(manifest["built_at"]),
    )  # fmt: skip
    sign_folder(source, workspace.index / written.index_id)
    publish_index(workspace.index, written.index_id)


def _grow_vectors(
    source: Workspace, workspace: Workspace, old: Catalogue, post_ids: Ids, rng: np.random.Generator
) -> None:
    bundle_id = json.loads((source.bundles / "first_stage" / "champion.json").read_text())["bundle_id"]
    folder = source.index / "first_stage" / bundle_id
    _, vectors = _in_order(np.load(folder / "post_ids.npy"), np.load(folder / "vectors.npy"), old)
    target = workspace.index / "first_stage" / bundle_id
    target.mkdir(parents=True, exist_ok=True)
    np.save(target / "vectors.npy", jittered(vectors, len(post_ids), rng), allow_pickle=False)
    np.save(target / "post_ids.npy", post_ids, allow_pickle=False)
    sums = {name: file_hash(target / name) for name in ("vectors.npy", "post_ids.npy")}
    write_atomically(target / "manifest.json", json.dumps({"bundle_id": bundle_id, "sha256": sums}))
    sign_folder(source, target)


def _in_order(ids: Ids, vectors_ND: NDArray[np.float32], old: Catalogue) -> tuple[Ids, NDArray[np.float32]]:
    """Ids and vectors of the catalogue's posts in its order; one without a vector has the mean."""
    place = np.full(len(old), -1, dtype=np.int64)
    rows = old.rows_of(ids)
    place[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
    vectors = vectors_ND[place]
    vectors[place < 0] = vectors_ND.mean(axis=0)
    return old.post_ids, vectors
