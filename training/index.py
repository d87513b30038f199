"""Post vectors of the champions, on disk for serving: the retrieval index and the first stage's vectors."""

import json
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import BundleError
from core.files import file_hash, sync_folder, write_atomically
from core.settings import Settings
from core.signatures import sign_folder, verify_files, verify_folder, verify_key
from models.ann import publish_index, write_index
from models.bundle import FirstStageBundle, RetrievalBundle, load_bundle
from training.catalogue import build_catalogue, catalogue_at
from training.publish import champion_bundle
from training.set_files import ExampleSet
from training.sets import Progress

VECTOR_ROWS = 8_192
KEPT_INDEXES = 3
"""Older indexes than these are removed; a server that started from one still has it in memory."""


@dataclass(frozen=True)
class IndexReport:
    """What was built, or found as it should be."""

    kind: str
    bundle_id: str
    count: int
    dim: int
    path: Path
    is_new: bool


def build_index(settings: Settings, progress: Progress, *, is_forced: bool = False) -> list[IndexReport]:
    """Index of the retrieval champion and, once there is one, vectors of the first-stage champion.

    Features are those known at the catalogue's instant. What is already built from the same bundle and
    catalogue is kept. Raises MissingStageError without a retrieval champion.
    """
    at = catalogue_at(settings)
    retrieval = champion_bundle(settings, "retrieval")
    catalogue = build_catalogue(settings, at, progress)
    reports = [_build_retrieval(settings, retrieval, catalogue, at, is_forced)]
    if (settings.workspace.bundles / "first_stage" / "champion.json").exists():
        first_stage = champion_bundle(settings, "first_stage")
        reports.append(_build_first_stage(settings, first_stage, catalogue, at, is_forced))
    return reports


def _build_retrieval(
    settings: Settings, bundle_path: Path, catalogue: ExampleSet, at: datetime, is_forced: bool
) -> IndexReport:
    root = settings.workspace.index
    stamp = {"bundle_id": bundle_path.name, "catalogue": catalogue.manifest.set_id, "at": at.isoformat()}
    built = _read_json(root / "last_build.json")
    index_id = str(built.get("index_id", ""))
    if not is_forced and built.get("from") == stamp and _is_intact(settings, root / index_id):
        found = _read_json(root / index_id / "manifest.json")
        publish_index(root, index_id)
        return IndexReport("retrieval", bundle_path.name, found["count"], found["dim"], root / index_id, False)
    bundle = load_bundle(bundle_path)
    if not isinstance(bundle, RetrievalBundle):
        raise BundleError(f"bundle {bundle_path} is a {bundle.manifest['kind']} model; expected retrieval")
    post_ids, vectors = post_vectors(bundle, catalogue)
    manifest = write_index(root, post_ids, vectors, bundle.bundle_id, at)
    sign_folder(settings.workspace, root / manifest.index_id)
    publish_index(root, manifest.index_id)
    write_atomically(root / "last_build.json", json.dumps({"from": stamp, "index_id": manifest.index_id}))
    _remove_old(root, keep=manifest.index_id)
    return IndexReport("retrieval", bundle.bundle_id, manifest.count, manifest.dim, root / manifest.index_id, True)


def _build_first_stage(
    settings: Settings, bundle_path: Path, catalogue: ExampleSet, at: datetime, is_forced: bool
) -> IndexReport:
    final = settings.workspace.index / "first_stage" / bundle_path.name
    found = _read_json(final / "manifest.json")
    is_same = found.get("catalogue") == catalogue.manifest.set_id
    if not is_forced and is_same and _is_intact(settings, final):
        return IndexReport("first_stage", bundle_path.name, found["count"], found["dim"], final, False)
    bundle = load_bundle(bundle_path)
    if not isinstance(bundle, FirstStageBundle):
        raise BundleError(f"bundle {bundle_path} is a {bundle.manifest['kind']} model; expected a first stage")
    post_ids, vectors = post_vectors(bundle, catalogue)
    final.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=final.parent, prefix=".vectors."))
    try:
        np.save(folder / "vectors.npy", vectors, allow_pickle=False)
        np.save(folder / "post_ids.npy", post_ids, allow_pickle=False)
        manifest = {
            "bundle_id": bundle.bundle_id,
            "catalogue": catalogue.manifest.set_id,
            "count": len(post_ids),
            "dim": vectors.shape[1],
            "built_at": at.astimezone(UTC).isoformat(),
            "sha256": {name: file_hash(folder / name) for name in ("vectors.npy", "post_ids.npy")},
        }
        write_atomically(folder / "manifest.json", json.dumps(manifest, indent=2))
        sign_folder(settings.workspace, folder)
        retired = final.parent / f".{final.name}.retired"
        shutil.rmtree(retired, ignore_errors=True)
        if final.exists():
            final.rename(retired)
        folder.chmod(0o755)  # mkdtemp makes it private
        folder.rename(final)
        sync_folder(final.parent)
        shutil.rmtree(retired, ignore_errors=True)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return IndexReport("first_stage", bundle.bundle_id, len(post_ids), vectors.shape[1], final, True)


def post_vectors(
    bundle: RetrievalBundle | FirstStageBundle, catalogue: ExampleSet
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Ids [N] and vectors [N, D] of every post of the catalogue."""
    rows = catalogue.examples()
    names = bundle.spec.columns("post")
    parts = []
    for start in range(0, rows.num_rows, VECTOR_ROWS):
        batch = {name: rows.columns[name][start : start + VECTOR_ROWS] for name in names}
        parts.append(bundle.post_vectors(batch))
    return np.array(rows.post_ids), np.concatenate(parts)


def _is_intact(settings: Settings, folder: Path) -> bool:
    """Whether the folder is as the workspace's key signed it; one that is not goes, and is built again."""
    if not folder.joinpath("manifest.json").exists():
        return False
    try:
        verify_files(folder, verify_folder(folder, verify_key(settings.workspace)).get("sha256"))
    except BundleError:
        shutil.rmtree(folder)
        return False
    return True


def _read_json(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _remove_old(root: Path, keep: str) -> None:
    folders = [f for f in root.iterdir() if (f / "index.faiss").exists() and f.name != keep]
    folders.sort(key=lambda folder: folder.stat().st_mtime_ns, reverse=True)
    for folder in folders[KEPT_INDEXES - 1 :]:
        shutil.rmtree(folder, ignore_errors=True)
