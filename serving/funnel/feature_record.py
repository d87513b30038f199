"""What the second stage was fed for one request, kept for a sampled share of requests."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from feature_repo.columns import Columns
from serving.funnel.features import FunnelFeatures
from serving.funnel.state import RequestState


@dataclass(frozen=True)
class FeatureRecord:
    """The columns of one ranking and where they came from. N posts in the order they were ranked."""

    request_id: int
    user_id: int
    served_at: datetime
    """Serve time of the ranking."""
    data_version: str
    spec_version: str
    model_versions: str
    """JSON, bundle id by kind."""
    max_age_seconds: tuple[float, float]
    """How old cached features of posts and of creators may be."""
    post_ids: NDArray[np.int64]
    creator_ids: NDArray[np.int64]
    post_read_at: NDArray[np.float64]
    """When the post's features were read from the online store, unix seconds, -inf where no longer held."""
    creator_read_at: NDArray[np.float64]
    user: Columns
    """Columns of the user and of the request, one row."""
    posts: Columns
    """Columns of posts, creators and crosses, N rows."""


class FeatureSink(Protocol):
    """Takes records without ever holding up or failing a request."""

    def wants(self, request_id: int) -> bool: ...

    def keep(self, record: FeatureRecord) -> None: ...

    def lost(self, num_posts: int) -> None: ...


class FeatureRecorder:
    """Hands the second stage's columns of one funnel to a sink."""

    def __init__(
        self, sink: FeatureSink, features: FunnelFeatures, spec_version: str, model_versions: Mapping[str, str]
    ) -> None:
        self._sink = sink
        self._features = features
        self._spec_version = spec_version
        self._model_versions = json.dumps(dict(sorted(model_versions.items())))

    def wants(self, state: RequestState, num_posts: int) -> bool:
        """Whether the request is in the sample. Raises nothing."""
        try:
            return self._sink.wants(state.request.request_id)
        except Exception:
            self._sink.lost(num_posts)
            return False

    def record(self, state: RequestState, rows: NDArray[np.int64], posts: Columns, crosses: Columns) -> None:
        """Keeps the columns. Raises nothing: a feed matters more than its record."""
        try:
            if state.user is not None and len(rows):
                self._sink.keep(self._record(state, rows, state.user, posts | crosses))
        except Exception:
            self._sink.lost(len(rows))

    def _record(self, state: RequestState, rows: NDArray[np.int64], user: Columns, posts: Columns) -> FeatureRecord:
        catalogue = state.snapshot.catalogue
        post_read_at, creator_read_at = self._features.read_instants(rows)
        return FeatureRecord(
            request_id=state.request.request_id,
            user_id=state.request.user_id,
            served_at=state.request.at,
            data_version=state.snapshot.data_version,
            spec_version=self._spec_version,
            model_versions=self._model_versions,
            max_age_seconds=(self._features.posts.max_age_seconds, self._features.creators.max_age_seconds),
            post_ids=catalogue.post_ids[rows],
            creator_ids=catalogue.creator_ids[rows],
            post_read_at=post_read_at,
            creator_read_at=creator_read_at,
            user=user,
            posts=posts,
        )
