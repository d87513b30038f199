"""What a funnel is built of: bundles, index and post vectors from the workspace. A part that is missing or damaged
is named and left out; the funnel serves without it and says so."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from core.errors import BundleError, MissingStageError, VitrineError
from core.logs import logger
from core.workspace import Workspace
from feature_repo.columns import Columns
from models.ann import champion_index, load_index
from models.bundle import FirstStageBundle, RetrievalBundle, SecondStageBundle, load_bundle
from serving.funnel.first_stage import VectorRanker
from serving.funnel.ports import FeatureReader, LightRanker, UserTower, VectorSearch
from serving.funnel.second_stage import EngagementModel
from serving.snapshot import UNKNOWN, Catalogue
from serving.vector_search import IndexSearch

_Part = TypeVar("_Part")


@dataclass(frozen=True)
class Parts:
    """The loaded parts; None where one is missing. Model versions by kind."""

    reader: FeatureReader
    tower: UserTower | None = None
    search: VectorSearch | None = None
    first_stage: LightRanker | None = None
    second_stage: EngagementModel | None = None
    feature_names: frozenset[str] = frozenset()
    bounds: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


class BrokenReader:
    """Stands in for a feature store that could not be opened: every read says why."""

    def __init__(self, error: VitrineError) -> None:
        self._error = error

    def read(self, entity: str, ids: NDArray[np.int64], views: object = None) -> Columns:
        """Raises what kept the store from opening."""
        raise self._error


def load_parts(workspace: Workspace, catalogue: Catalogue, reader: FeatureReader | None = None) -> Parts:
    """Everything that the workspace has. Raises nothing: problems are named in the result."""
    problems: dict[str, str] = {}

    def attempt(name: str, load: Callable[[], _Part]) -> _Part | None:
        try:
            return load()
        except (MissingStageError, VitrineError) as error:
            problems[name] = str(error)
            return None

    retrieval = attempt("retrieval", lambda: _champion(workspace, "retrieval", RetrievalBundle))
    first = attempt("first_stage", lambda: _champion(workspace, "first_stage", FirstStageBundle))
    second = attempt("second_stage", lambda: _champion(workspace, "second_stage", SecondStageBundle))
    search, first_ranker = None, None
    if retrieval is not None:
        bundle_id = retrieval.bundle_id
        search = attempt(
            "index", lambda: IndexSearch(load_index(champion_index(workspace.index), bundle_id), catalogue)
        )
    if first is not None:
        bundle = first
        first_ranker = attempt("first_stage_vectors", lambda: _vector_ranker(workspace, bundle, catalogue))
    bundles = [bundle for bundle in (retrieval, first, second) if bundle is not None]
    return Parts(
        reader=reader or open_reader(workspace),
        tower=retrieval if search is not None else None,
        search=search,
        first_stage=first_ranker,
        second_stage=second,
        feature_names=frozenset(f.column for bundle in bundles for f in bundle.spec.features),
        bounds={name: bound for bundle in bundles for name, bound in bundle.manifest.get("bounds", {}).items()},
        versions={
            kind: bundle.bundle_id
            for kind, bundle, is_used in (
                ("retrieval", retrieval, search is not None),
                ("first_stage", first, first_ranker is not None),
                ("second_stage", second, True),
            )
            if bundle is not None and is_used
        },
        problems=problems,
    )


def open_reader(workspace: Workspace) -> FeatureReader:
    """Feast's online store, or a reader that says why there is none."""
    from feature_repo.online import OnlineFeatures  # Feast takes seconds to import

    try:
        return OnlineFeatures(workspace)
    except VitrineError as error:
        logger("serving").warning("feature store not opened", reason=str(error))
        return BrokenReader(error)


def _champion(workspace: Workspace, kind: str, expected: type[_Part]) -> _Part:
    pointer = workspace.bundles / kind / "champion.json"
    if not pointer.exists():
        raise MissingStageError(f"{kind} bundle", pointer, f"python -m training {kind.replace('_', '-')}")
    try:
        folder = pointer.parent / str(json.loads(pointer.read_text())["bundle_id"])
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{pointer} names no bundle ({error!r}); train {kind} again") from error
    bundle = load_bundle(folder)
    if not isinstance(bundle, expected):
        raise BundleError(f"{folder} holds a {type(bundle).__name__}, expected a {expected.__name__}")
    return bundle


def _vector_ranker(workspace: Workspace, bundle: FirstStageBundle, catalogue: Catalogue) -> VectorRanker:
    folder = workspace.index / "first_stage" / bundle.bundle_id
    vectors, post_ids = _array(folder / "vectors.npy"), _array(folder / "post_ids.npy")
    if vectors.ndim != 2 or vectors.shape != (len(post_ids), bundle.dim):
        raise BundleError(
            f"{folder}: vectors are {vectors.shape} for {len(post_ids)} posts; run `python -m training index`"
        )
    if np.array_equal(post_ids, catalogue.post_ids):  # the file as it lies, shared among processes
        return VectorRanker(bundle, vectors, np.ones(len(catalogue), dtype=np.bool_))
    rows = catalogue.rows_of(post_ids)
    is_known = rows != UNKNOWN
    by_row = np.zeros((len(catalogue), vectors.shape[1]), dtype=np.float32)
    by_row[rows[is_known]] = vectors[is_known]
    has_vector = np.zeros(len(catalogue), dtype=np.bool_)
    has_vector[rows[is_known]] = True
    return VectorRanker(bundle, by_row, has_vector)


def _array(path: Path) -> NDArray[Any]:
    try:
        return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
    except FileNotFoundError as error:
        raise MissingStageError("first-stage post vectors", path, "python -m training index") from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read ({error}); run `python -m training index`") from error
