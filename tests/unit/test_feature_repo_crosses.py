"""Features of a user and a post together, by hand."""

import numpy as np
import pytest

from feature_repo.catalog import CROSS_FIELDS, CROSS_SOURCES, CROSS_VIEW
from feature_repo.columns import Columns, null_columns
from feature_repo.crosses import cross_features


def columns(entity: str, num_rows: int, **values: object) -> Columns:
    names = [f"{view}__{f}" for view, features in CROSS_SOURCES.items() for f in features if view.startswith(entity)]
    made = null_columns(names, num_rows)
    for name, value in values.items():
        array = np.asarray(value, dtype=made[name].dtype)
        made[name][..., : array.shape[-1]] = array
    return made


def a_user() -> Columns:
    return columns(
        "user",
        1,
        user_profile__country=["DE"],
        user_profile__language=["de"],
        user_profile__followed_creator_ids=[[7, 9]],
        user_history__history_creator_ids=[[7, 7, 8]],
        user_history__history_topic_ids=[[1, 2, 1]],
        user_history__content_centroid=[[3.0, 4.0]],
        user_affinity__top_creator_ids=[[7, 8]],
        user_affinity__top_creator_affinities=[[0.6, 0.4]],
        user_affinity__top_topic_ids=[[1, 2]],
        user_affinity__top_topic_affinities=[[0.75, 0.25]],
        user_affinity__media_type_affinities=[[0.1, 0.9, 0.0, 0.0]],
    )


def two_posts() -> Columns:
    return columns(
        "post",
        2,
        post_profile__creator_id=[7, 5],
        post_profile__topic_id=[2, -1],
        post_profile__language=["de", ""],
        post_profile__country=["DE", "BR"],
        post_profile__media_type=["video", "image"],
        post_profile__created_at=[3600, -1],
        post_profile__content_embedding=[[1.0, 0.0], [0.0, 0.0]],
    )


def test_each_cross_feature_has_its_hand_computed_value() -> None:
    crosses = cross_features(a_user(), two_posts(), 3600 * 3.5)
    assert list(crosses) == [f"{CROSS_VIEW}__{f.name}" for f in CROSS_FIELDS]
    assert all(v.dtype == np.float32 and v.shape == (2,) for v in crosses.values())
    nan = float("nan")
    for name, values in {
        "post_age_hours": [2.5, nan],
        "user_creator_affinity": [0.6, 0.0],
        "user_topic_affinity": [0.25, 0.0],
        "user_media_affinity": [0.9, 0.1],
        "is_followed": [1.0, 0.0],
        "is_same_language": [1.0, nan],
        "is_same_country": [1.0, 0.0],
        "history_creator_matches": [2.0, 0.0],
        "history_topic_matches": [1.0, 0.0],
        "content_similarity": [0.6, nan],
    }.items():
        assert crosses[f"{CROSS_VIEW}__{name}"].tolist() == pytest.approx(values, nan_ok=True), name


def test_padding_never_matches_an_unknown_creator_or_topic() -> None:
    unknown = columns("post", 1)
    crosses = cross_features(columns("user", 1), unknown, 0.0)
    for name in ("user_creator_affinity", "is_followed", "history_creator_matches", "history_topic_matches"):
        assert crosses[f"{CROSS_VIEW}__{name}"].tolist() == [0.0]


def test_one_user_row_and_the_same_row_repeated_give_the_same_values() -> None:
    user, posts = a_user(), two_posts()
    repeated = {name: np.repeat(values, 2, axis=0) for name, values in user.items()}
    once = cross_features(user, posts, 10_000.0)
    for name, values in cross_features(repeated, posts, np.array([10_000.0, 10_000.0])).items():
        np.testing.assert_array_equal(values, once[name])


def test_a_post_from_the_future_has_age_zero() -> None:
    assert cross_features(a_user(), two_posts(), 0.0)[f"{CROSS_VIEW}__post_age_hours"][0] == 0
