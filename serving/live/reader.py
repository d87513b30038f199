"""Online features with what was written since the last build of features laid over them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from feature_repo.catalog import CODES_LENGTH
from feature_repo.columns import Columns, null_columns
from serving.funnel.ports import FeatureReader
from serving.live.catalogue import LiveCatalogue
from serving.live.users import LiveUsers
from serving.snapshot import UNKNOWN


class LiveReader:
    """`stored` with the profile of written posts and users; a deleted user reads as one nobody knows.

    Training joins the same profile: a write becomes a row of the log that was known when it was acknowledged.
    """

    def __init__(self, stored: FeatureReader, catalogue: LiveCatalogue, users: LiveUsers) -> None:
        self.stored = stored
        self._catalogue = catalogue
        self._users = users

    def read(self, entity: str, ids: NDArray[np.int64], views: Sequence[str]) -> Columns:
        """Features of `views` for each id. Raises StoreUnavailableError."""
        columns = self.stored.read(entity, ids, views)
        if entity == "user":
            return self._of_users(columns, np.asarray(ids, dtype=np.int64))
        return self.with_profiles(columns, ids) if entity == "post" else columns

    def with_profiles(self, columns: Columns, post_ids: NDArray[np.int64]) -> Columns:
        """The columns with `post_profile` of the posts that were written since the snapshot."""
        rows = self._catalogue.rows_of(post_ids)
        places = np.array([i for i, row in enumerate(rows.tolist()) if row in self._catalogue.names], dtype=np.int64)
        if not len(places):
            return columns
        for name, values in self._profile(rows[places]).items():
            if (held := columns.get(f"post_profile__{name}")) is not None:
                columns[f"post_profile__{name}"] = written = held.copy()
                written[places] = values
        return columns

    def _profile(self, rows: NDArray[np.int64]) -> dict[str, np.ndarray]:
        posts = self._catalogue
        codes = np.full((len(rows), CODES_LENGTH), -1, dtype=np.int64)
        for place, row in enumerate(rows.tolist()):
            given = posts.content_codes[row][:CODES_LENGTH]
            codes[place, : len(given)] = given
        return {
            "post_key": posts.post_ids[rows],
            "creator_id": posts.creator_ids[rows],
            "topic_id": posts.topic_ids[rows],
            "language": _words(posts.languages, posts.language_codes[rows]),
            "country": _words(posts.countries, posts.country_codes[rows]),
            "media_type": _words(posts.media_types, posts.media_codes[rows]),
            "duration_seconds": posts.duration_seconds[rows],
            "integrity_score": posts.integrity[rows],
            "created_at": posts.created_at[rows].astype(np.int64),
            "content_codes": codes,
            "content_embedding": posts.content[rows],
        }

    def _of_users(self, columns: Columns, ids: NDArray[np.int64]) -> Columns:
        is_gone = self._users.is_gone(ids)
        if is_gone.any():
            nobody = null_columns(list(columns), len(ids))
            for name, values in columns.items():
                columns[name] = values.copy()
                columns[name][is_gone] = nobody[name][is_gone]
        return columns


def _words(vocabulary: tuple[str, ...], codes: NDArray[np.int16]) -> np.ndarray:
    words = np.empty(len(codes), dtype=object)
    words[:] = [vocabulary[code] if code != UNKNOWN else "" for code in codes.tolist()]
    return words
