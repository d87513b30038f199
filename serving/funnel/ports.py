"""What the funnel asks of the outside; adapters and tests implement these."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from feature_repo.columns import Columns
from serving.funnel.eligible import EligiblePosts
from serving.funnel.request import StageReport
from serving.funnel.state import Controls, RequestState


class FeatureReader(Protocol):
    """Online features by entity: rows in the order of `ids`, nulls for an unknown id.

    Raises StoreUnavailableError where the store does not answer.
    """

    def read(self, entity: str, ids: NDArray[np.int64], views: Sequence[str]) -> Columns: ...


class ControlsReader(Protocol):
    """A user's hides, blocks, follows, seen posts and latest engagements, up to the last acknowledged event."""

    def read(self, user_id: int, user_row: int, at: datetime) -> Controls: ...


class UserTower(Protocol):
    """The user side of a two-tower model."""

    @property
    def bundle_id(self) -> str: ...

    def user_vectors(self, columns: Columns) -> NDArray[np.float32]: ...


class VectorSearch(Protocol):
    """Nearest posts of one vector among the eligible rows of the catalogue."""

    def search(
        self, vector_D: NDArray[np.float32], k: int, eligible: EligiblePosts
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Catalogue rows and scores, best first, at most `k`."""
        ...


class LightRanker(Protocol):
    """The first stage: one score per candidate."""

    @property
    def version(self) -> str: ...

    def scores(self, state: RequestState, rows: NDArray[np.int64]) -> NDArray[np.float64]: ...


class HeavyRanker(Protocol):
    """The second stage: calibrated probability of every engagement, [N, H]."""

    @property
    def version(self) -> str: ...

    @property
    def heads(self) -> tuple[str, ...]: ...

    def probabilities(self, state: RequestState, rows: NDArray[np.int64]) -> NDArray[np.float64]: ...


class Observer(Protocol):
    """Is told what the funnel did, for metrics."""

    def stage(self, report: StageReport) -> None: ...

    def degraded(self, part: str) -> None: ...

    def out_of_bounds(self, feature: str, values: int) -> None: ...


class SilentObserver:
    """Tells nobody."""

    def stage(self, report: StageReport) -> None:
        return None

    def degraded(self, part: str) -> None:
        return None

    def out_of_bounds(self, feature: str, values: int) -> None:
        return None
