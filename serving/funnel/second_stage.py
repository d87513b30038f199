"""Second stage: the heavy model over user, post and cross features."""

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from core.errors import BundleError, FeatureStoreError
from feature_repo.columns import Columns
from feature_repo.crosses import cross_features
from serving.funnel.feature_record import FeatureRecorder
from serving.funnel.features import FunnelFeatures
from serving.funnel.state import RequestState


class EngagementModel(Protocol):
    """A second-stage bundle."""

    @property
    def bundle_id(self) -> str: ...

    @property
    def heads(self) -> tuple[str, ...]: ...

    def probabilities(self, user: Columns, post: Columns, cross: Columns) -> NDArray[np.float64]: ...


@runtime_checkable
class EncodingModel(EngagementModel, Protocol):
    """One whose reading of posts can be kept from request to request."""

    def encoded_posts(self, columns: Columns) -> Columns: ...

    def probabilities_of(self, user: Columns, posts: Columns, cross: Columns) -> NDArray[np.float64]: ...


class ModelRanker:
    """Runs the bundle on features of the moment; `recorder` keeps those of sampled requests."""

    def __init__(
        self, model: EngagementModel, features: FunnelFeatures, recorder: FeatureRecorder | None = None
    ) -> None:
        self._model = model
        self._encoding = model if isinstance(model, EncodingModel) else None
        self._features = features
        self._recorder = recorder

    @property
    def version(self) -> str:
        return self._model.bundle_id

    @property
    def heads(self) -> tuple[str, ...]:
        return tuple(self._model.heads)

    def probabilities(self, state: RequestState, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Calibrated probability of every engagement, [N, H]. Raises StoreUnavailableError."""
        if state.user is None:
            raise FeatureStoreError("the second stage needs the user's features")
        is_recorded = self._recorder is not None and self._recorder.wants(state, len(rows))
        try:
            if self._encoding is not None and not is_recorded:
                return self._of_encoded(self._encoding, state, state.user, rows)
            posts = self._features.post_columns(rows, state.at_seconds)
            crosses = cross_features(state.user, posts, state.at_seconds)
            if self._recorder is not None and is_recorded:
                self._recorder.record(state, rows, posts, crosses)
            return np.asarray(self._model.probabilities(state.user, posts, crosses), dtype=np.float64)
        except ValueError as error:
            raise BundleError(f"second-stage bundle {self.version} does not fit the features: {error}") from error

    def _of_encoded(
        self, model: EncodingModel, state: RequestState, user: Columns, rows: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        posts = self._features.encoded_posts(rows, state.at_seconds)
        crosses = cross_features(user, posts, state.at_seconds)
        return np.asarray(model.probabilities_of(user, posts, crosses), dtype=np.float64)
