"""Features for the funnel: a user's read fresh for every request, posts' and creators' kept for a while."""

from collections.abc import Callable, Collection
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.catalog import ALL_VIEWS, CROSS_SOURCES, ENTITY_VIEWS
from feature_repo.columns import Columns
from feature_repo.crosses import POST_COLUMNS
from serving.funnel.input_bounds import InputBounds
from serving.funnel.ports import FeatureReader
from serving.funnel.request import FeedRequest
from serving.funnel.row_cache import CacheCounts, RowCache
from serving.snapshot import Catalogue
from serving.spec_limits import CachesSpec

LIVE_FEATURES: frozenset[str] = frozenset()
"""Columns in which serving lays what the journal streams over the stored value. None yet: the latest engagements
become seeds of retrieval and reach no model. `make skew` excuses what is named here and nothing else."""

ALWAYS_READ = (*CROSS_SOURCES, "user_history")
"""Views that cross features and history seeds need whatever the models read."""


Encode = Callable[[Columns], Columns]
"""Columns of N posts and their creators to arrays of N rows."""


class FunnelFeatures:
    """The features one funnel needs, by entity."""

    def __init__(
        self,
        reader: FeatureReader,
        catalogue: Catalogue,
        caches: CachesSpec,
        feature_names: Collection[str],
        bounds: InputBounds,
        encode_posts: Encode | None = None,
    ) -> None:
        """`encode_posts`: what the second stage makes of posts' columns; kept in their place where it is given."""
        views = {name.partition("__")[0] for name in feature_names} | set(ALWAYS_READ)
        self._views = {entity: tuple(view for view in known if view in views) for entity, known in ENTITY_VIEWS.items()}
        self._reader = reader
        self._bounds = bounds
        self._catalogue = catalogue
        self.posts = RowCache(caches.post_features.max_entries, caches.post_features.max_age_seconds)
        self.creators = RowCache(caches.creator_features.max_entries, caches.creator_features.max_age_seconds)
        self._encode = encode_posts
        self._encoded = RowCache(caches.post_features.max_entries, caches.post_features.max_age_seconds)
        self._preloaded: dict[int, Columns] = {}

    def user_columns(self, user_id: int) -> Columns:
        """All views of one user, one row, read now. Raises StoreUnavailableError."""
        if user_id in self._preloaded:
            return dict(self._preloaded[user_id])
        return self._read("user", np.array([user_id], dtype=np.int64))

    def preload_users(self, user_ids: NDArray[np.int64]) -> None:
        """Reads many users in one go, for a batch of requests; later reads of them use these rows."""
        columns = self._read("user", user_ids)
        for place, user_id in enumerate(user_ids.tolist()):
            self._preloaded[user_id] = {name: values[place : place + 1] for name, values in columns.items()}

    def post_columns(self, rows: NDArray[np.int64], now_seconds: float) -> Columns:
        """Views of the posts at the catalogue rows and of their creators, [N]. Raises StoreUnavailableError."""
        columns = dict(self.posts.gather(self._catalogue.post_ids[rows], now_seconds, self._read_posts))
        if self._views["creator"]:
            creator_ids = self._catalogue.creator_ids[rows]
            columns.update(self.creators.gather(creator_ids, now_seconds, self._read_creators))
        return columns

    def encoded_posts(self, rows: NDArray[np.int64], now_seconds: float) -> Columns:
        """What `encode_posts` makes of the posts at the rows and their creators, and what crosses read of them, [N].

        No older than `post_columns` would be. Raises StoreUnavailableError; ValueError without `encode_posts`.
        """
        if self._encode is None:
            raise ValueError("nothing encodes posts here: encode_posts was not given")
        return self._encoded.gather(
            self._catalogue.post_ids[rows],
            now_seconds,
            partial(self._read_encoded, self._encode, now_seconds),
            partial(self._encoded_at, now_seconds),
        )

    def warm(self, rows: NDArray[np.int64], now_seconds: float) -> None:
        """Reads the posts at the rows in bulk, for rankings to come. Raises StoreUnavailableError."""
        (self.post_columns if self._encode is None else self.encoded_posts)(rows, now_seconds)

    def drop_posts(self, post_ids: NDArray[np.int64]) -> None:
        """Lets the posts be read again at their next use."""
        self.posts.drop(post_ids)
        self._encoded.drop(post_ids)

    @property
    def post_counts(self) -> CacheCounts:
        """Lookups of posts for the second stage."""
        return self.posts.counts if self._encode is None else self._encoded.counts

    @property
    def post_names(self) -> list[str]:
        """Full names of the features of posts and creators that the models read."""
        views = (*self._views["post"], *self._views["creator"])
        return [f"{view}__{field.name}" for view in views for field in ALL_VIEWS[view].fields]

    def read_instants(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """When the held features of the posts and of their creators were read, unix seconds, [N] each."""
        posts, creators = self._catalogue.post_ids[rows], self._catalogue.creator_ids[rows]
        return self.posts.read_at(posts), self.creators.read_at(creators)

    def _read_posts(self, post_ids: NDArray[np.int64]) -> Columns:
        return self._read("post", post_ids)

    def _read_creators(self, creator_ids: NDArray[np.int64]) -> Columns:
        return self._read("creator", creator_ids)

    def _read_encoded(self, encode: Encode, now_seconds: float, post_ids: NDArray[np.int64]) -> Columns:
        columns = self._read_posts(post_ids)
        if self._views["creator"]:
            columns |= self.creators.gather(self._creators_of(post_ids), now_seconds, self._read_creators)
        return encode(columns) | {name: columns[name] for name in POST_COLUMNS}

    def _encoded_at(self, now_seconds: float, post_ids: NDArray[np.int64]) -> NDArray[np.float64]:
        if not self._views["creator"]:
            return np.full(len(post_ids), now_seconds)
        return np.minimum(self.creators.read_at(self._creators_of(post_ids)), now_seconds)

    def _creators_of(self, post_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._catalogue.creator_ids[self._catalogue.rows_of(post_ids)]

    def _read(self, entity: str, ids: NDArray[np.int64]) -> Columns:
        return self._bounds.applied(self._reader.read(entity, ids, self._views[entity]))


def request_columns(request: FeedRequest, country: str | None, language: str | None) -> dict[str, NDArray[Any]]:
    """Context of the request as model inputs, one row; hour and weekday in UTC, Monday 0."""
    at: datetime = request.at
    words = {"device": request.device, "country": country, "language": language, "surface": request.surface}
    columns: dict[str, NDArray[Any]] = {
        "request__hour": np.array([at.hour], dtype=np.int64),
        "request__weekday": np.array([at.weekday()], dtype=np.int64),
    }
    columns |= {f"request__{name}": np.array([word or ""], dtype=object) for name, word in words.items()}
    return columns
