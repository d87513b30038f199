"""Bundles, index and post vectors that the workspace's key has signed: the newest that holds, else the one before.

Each pointer `champion.json` names what should serve and, under `previous`, what served before it. What is refused
is named with its reason; nothing here raises.
"""

import json
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from numpy.typing import NDArray

from core.errors import BundleError, MissingStageError, VitrineError
from core.signatures import verify_files, verify_folder, verify_key
from core.workspace import Workspace
from models.ann import load_index
from models.bundle import FirstStageBundle, RetrievalBundle, SecondStageBundle, load_bundle
from serving.funnel.first_stage import VectorRanker
from serving.snapshot import UNKNOWN, Catalogue
from serving.vector_search import IndexSearch

_Part = TypeVar("_Part")


class TrustedFiles:
    """Loads the parts of one workspace over one catalogue."""

    def __init__(self, workspace: Workspace, catalogue: Catalogue, pinned_key: str | None = None) -> None:
        self._workspace = workspace
        self._catalogue = catalogue
        self._pinned_key = pinned_key
        self.problems: dict[str, str] = {}
        """Why the newest of a part was refused, by retrieval, index, first_stage, first_stage_vectors, second_stage."""
        self.stand_ins: list[str] = []
        """Kinds of which an older bundle or index serves than the one that should."""

    def retrieval(self) -> tuple[RetrievalBundle | None, IndexSearch | None]:
        """A bundle with an index that was made with it; a bundle alone where no index fits."""
        alone = None
        for place, bundle in self._bundles("retrieval", RetrievalBundle):
            alone = alone or bundle
            pointer = self._workspace.index / "champion.json"
            names = self._names("index", pointer, "index_id", "python -m training index")
            for index_place, name in enumerate(names):
                search = self._tried("index", lambda name=name, bundle=bundle: self._index(name, bundle))  # type: ignore[misc]
                if search is not None:
                    self._note("retrieval", place + index_place)
                    return bundle, search
        return alone, None

    def first_stage(self) -> tuple[FirstStageBundle, VectorRanker] | None:
        """A bundle with the vectors of the catalogue's posts."""
        for place, bundle in self._bundles("first_stage", FirstStageBundle):
            ranker = self._tried("first_stage_vectors", lambda bundle=bundle: self._vector_ranker(bundle))  # type: ignore[misc]
            if ranker is not None:
                self._note("first_stage", place)
                return bundle, ranker
        return None

    def second_stage(self) -> SecondStageBundle | None:
        """The heavy ranker."""
        for place, bundle in self._bundles("second_stage", SecondStageBundle):
            self._note("second_stage", place)
            return bundle
        return None

    def _bundles(self, kind: str, expected: type[_Part]) -> Iterator[tuple[int, _Part]]:
        """Those that hold, newest first, with how many came before each."""
        pointer = self._workspace.bundles / kind / "champion.json"
        for place, name in enumerate(self._names(kind, pointer, "bundle_id", f"make {kind.replace('_', '-')}")):
            bundle = self._tried(kind, lambda name=name: self._bundle(pointer.parent / name, expected))  # type: ignore[misc]
            if bundle is not None:
                yield place, bundle

    def _names(self, part: str, pointer: Path, key: str, command: str) -> tuple[str, ...]:
        return self._tried(part, lambda: _pointed(part, pointer, key, command)) or ()

    def _tried(self, part: str, load: Callable[[], _Part]) -> _Part | None:
        try:
            return load()
        except VitrineError as error:
            self.problems.setdefault(part, str(error))
            return None

    def _note(self, kind: str, num_refused: int) -> None:
        if num_refused:
            self.stand_ins.append(kind)

    @cached_property
    def _key(self) -> Ed25519PublicKey:
        return verify_key(self._workspace, self._pinned_key)

    def _bundle(self, folder: Path, expected: type[_Part]) -> _Part:
        signed = verify_folder(folder, self._key)
        bundle = load_bundle(folder)
        if bundle.manifest != signed:
            raise BundleError(f"{folder} changed while it was loaded; start again")
        if not isinstance(bundle, expected):
            raise BundleError(f"{folder} holds a {type(bundle).__name__}, expected a {expected.__name__}")
        return bundle

    def _index(self, name: str, bundle: RetrievalBundle) -> IndexSearch:
        folder = self._workspace.index / name
        verify_folder(folder, self._key)
        return IndexSearch(load_index(folder, bundle.bundle_id), self._catalogue)

    def _vector_ranker(self, bundle: FirstStageBundle) -> VectorRanker:
        folder = self._workspace.index / "first_stage" / bundle.bundle_id
        if not folder.exists():
            raise MissingStageError("first-stage post vectors", folder, "python -m training index")
        verify_files(folder, verify_folder(folder, self._key).get("sha256"))
        vectors, post_ids = _array(folder / "vectors.npy"), _array(folder / "post_ids.npy")
        if vectors.ndim != 2 or vectors.shape != (len(post_ids), bundle.dim):
            raise BundleError(
                f"{folder}: vectors are {vectors.shape} for {len(post_ids)} posts; run `python -m training index`"
            )
        has_vector = np.zeros(len(self._catalogue), dtype=np.bool_)
        if len(post_ids) and np.array_equal(post_ids, self._catalogue.post_ids[: len(post_ids)]):
            has_vector[: len(post_ids)] = True
            return VectorRanker(bundle, vectors, has_vector)  # the file as it lies, shared among processes
        rows = self._catalogue.rows_of(post_ids)
        is_known = rows != UNKNOWN
        by_row = np.zeros((len(self._catalogue), vectors.shape[1]), dtype=np.float32)
        by_row[rows[is_known]] = vectors[is_known]
        has_vector[rows[is_known]] = True
        return VectorRanker(bundle, by_row, has_vector)


def _pointed(part: str, pointer: Path, key: str, command: str) -> tuple[str, ...]:
    """What should serve and what served before, newest first. Raises MissingStageError, BundleError."""
    if not pointer.exists():
        raise MissingStageError(f"{part} bundle" if key == "bundle_id" else part, pointer, command)
    try:
        named = json.loads(pointer.read_text())
        names = (str(named[key]), *([str(named["previous"])] if named.get("previous") else []))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{pointer} names nothing ({error!r}); run `{command}` again") from error
    if any(Path(name).name != name for name in names):
        raise BundleError(f"{pointer} names a folder elsewhere; run `{command}` again")
    return names


def _array(path: Path) -> NDArray[Any]:
    try:
        return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read ({error}); run `python -m training index`") from error
