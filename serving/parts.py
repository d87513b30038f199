"""What a funnel is built of: bundles, index and post vectors from the workspace. A part that is missing or damaged
is named and left out; the funnel serves without it and says so."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import VitrineError
from core.logs import logger
from core.workspace import Workspace
from feature_repo.columns import Columns
from serving.funnel.ports import FeatureReader, LightRanker, UserTower, VectorSearch
from serving.funnel.second_stage import EngagementModel
from serving.snapshot import Catalogue
from serving.trusted import TrustedFiles


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
    stand_ins: tuple[str, ...] = ()
    """Kinds of which an older version serves, because the newest was refused."""


class BrokenReader:
    """Stands in for a feature store that could not be opened: every read says why."""

    def __init__(self, error: VitrineError) -> None:
        self._error = error

    def read(self, entity: str, ids: NDArray[np.int64], views: object = None) -> Columns:
        """Raises what kept the store from opening."""
        raise self._error


def load_parts(
    workspace: Workspace, catalogue: Catalogue, reader: FeatureReader | None = None, pinned_key: str | None = None
) -> Parts:
    """Everything that the workspace has and its key, or `pinned_key`, has signed.

    Raises nothing: problems are named in the result.
    """
    files = TrustedFiles(workspace, catalogue, pinned_key)
    retrieval, search = files.retrieval()
    first = files.first_stage()
    second = files.second_stage()
    bundles = [bundle for bundle in (retrieval, first[0] if first else None, second) if bundle is not None]
    return Parts(
        reader=reader or open_reader(workspace),
        tower=retrieval if search is not None else None,
        search=search,
        first_stage=first[1] if first else None,
        second_stage=second,
        feature_names=frozenset(f.column for bundle in bundles for f in bundle.spec.features),
        bounds={name: bound for bundle in bundles for name, bound in bundle.manifest.get("bounds", {}).items()},
        versions={
            kind: bundle.bundle_id
            for kind, bundle, is_used in (
                ("retrieval", retrieval, search is not None),
                ("first_stage", first[0] if first else None, True),
                ("second_stage", second, True),
            )
            if bundle is not None and is_used
        },
        problems=files.problems,
        stand_ins=tuple(files.stand_ins),
    )


def open_reader(workspace: Workspace, wait_seconds: float | None = None) -> FeatureReader:
    """Feast's online store, or a reader that says why there is none. `wait_seconds`: longest wait for one answer."""
    from feature_repo.online import OnlineFeatures  # Feast takes seconds to import

    try:
        return OnlineFeatures(workspace, wait_seconds)
    except VitrineError as error:
        logger("serving").warning("feature store not opened", reason=str(error))
        return BrokenReader(error)
