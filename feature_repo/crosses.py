"""Features of a user and a post together, computed when both are known. Pure numpy; one code for
training (through Feast's on-demand view), serving and evaluation.
"""

import numpy as np
from numpy.typing import NDArray

from core.schema import MEDIA_TYPES
from feature_repo.catalog import CROSS_VIEW
from feature_repo.columns import Columns

POST_COLUMNS = (
    "post_profile__creator_id",
    "post_profile__topic_id",
    "post_profile__created_at",
    "post_profile__media_type",
    "post_profile__language",
    "post_profile__country",
    "post_profile__content_embedding",
)
"""What `cross_features` reads of posts."""


def cross_features(user: Columns, post: Columns, at_seconds: NDArray[np.float64] | float) -> Columns:
    """`user_post_cross__*` of each post for its user, [N] float32; uses nothing after `at_seconds`.

    `user` has one row (the same user for every post) or N rows; `post` has N rows; `at_seconds` is
    the instant of ranking in unix seconds, one or [N].
    """
    creator_ids = post["post_profile__creator_id"]
    topic_ids = post["post_profile__topic_id"]
    features = {
        "post_age_hours": _age_hours(post["post_profile__created_at"], at_seconds),
        "user_creator_affinity": _affinity(
            user["user_affinity__top_creator_ids"], user["user_affinity__top_creator_affinities"], creator_ids
        ),
        "user_topic_affinity": _affinity(
            user["user_affinity__top_topic_ids"], user["user_affinity__top_topic_affinities"], topic_ids
        ),
        "user_media_affinity": _media_affinity(
            user["user_affinity__media_type_affinities"], post["post_profile__media_type"]
        ),
        "is_followed": (_matches(user["user_profile__followed_creator_ids"], creator_ids) > 0).astype(np.float32),
        "is_same_language": _is_same(user["user_profile__language"], post["post_profile__language"]),
        "is_same_country": _is_same(user["user_profile__country"], post["post_profile__country"]),
        "history_creator_matches": _matches(user["user_history__history_creator_ids"], creator_ids),
        "history_topic_matches": _matches(user["user_history__history_topic_ids"], topic_ids),
        "content_similarity": _cosine(user["user_history__content_centroid"], post["post_profile__content_embedding"]),
        "followed_similarity": _cosine(
            user["user_profile__followed_centroid"], post["post_profile__content_embedding"]
        ),
    }
    return {f"{CROSS_VIEW}__{name}": values.astype(np.float32, copy=False) for name, values in features.items()}


def _age_hours(created_at: NDArray[np.int64], at_seconds: NDArray[np.float64] | float) -> NDArray[np.float32]:
    hours = np.maximum((np.asarray(at_seconds, dtype=np.float64) - created_at) / 3600.0, 0.0)
    return np.where(created_at >= 0, hours, np.nan).astype(np.float32)


def _affinity(
    ids_UL: NDArray[np.int64], affinities_UL: NDArray[np.float32], wanted_N: NDArray[np.int64]
) -> NDArray[np.float32]:
    is_match = (ids_UL == wanted_N[:, None]) & (wanted_N[:, None] >= 0)
    return np.where(is_match, affinities_UL, np.float32(0)).sum(axis=1, dtype=np.float32)


def _media_affinity(affinities_UM: NDArray[np.float32], media_types_N: np.ndarray) -> NDArray[np.float32]:
    is_type_NM = np.asarray(media_types_N, dtype=object)[:, None] == np.array(MEDIA_TYPES, dtype=object)
    return np.where(is_type_NM, affinities_UM, np.float32(0)).sum(axis=1, dtype=np.float32)


def _matches(ids_UL: NDArray[np.int64], wanted_N: NDArray[np.int64]) -> NDArray[np.float32]:
    return ((ids_UL == wanted_N[:, None]) & (wanted_N[:, None] >= 0)).sum(axis=1, dtype=np.float32)


def _is_same(left_U: np.ndarray, right_N: np.ndarray) -> NDArray[np.float32]:
    is_known = (left_U != "") & (right_N != "")
    return np.where(is_known, left_U == right_N, np.nan).astype(np.float32)


def _cosine(left_UD: NDArray[np.float32], right_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    dots = (left_UD * right_ND).sum(axis=1, dtype=np.float32)
    norms = np.linalg.norm(left_UD, axis=1) * np.linalg.norm(right_ND, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(norms > 0, dots / norms, np.nan).astype(np.float32)
