"""Rows whose user was forgotten read as serving reads a user it has never met."""

import numpy as np

from core.schema import HEADS
from feature_repo.catalog import ALL_VIEWS, CROSS_FIELDS, CROSS_VIEW, ENTITY_VIEWS
from feature_repo.columns import Columns, null_columns
from feature_repo.crosses import cross_features
from training.examples import Examples
from training.unknown_users import as_unknown_users, forgotten_rows

NUM_ROWS = 6
AT = np.full(NUM_ROWS, 1_700_000_000.0)


def random_columns(entity: str, rng: np.random.Generator) -> Columns:
    names = [f"{view}__{f.name}" for view in ENTITY_VIEWS[entity] for f in ALL_VIEWS[view].fields]
    columns = null_columns(names, NUM_ROWS)
    for name, values in columns.items():
        if values.dtype != object:
            columns[name] = rng.integers(0, 3, values.shape).astype(values.dtype)
    return columns


def test_what_training_forgets_is_what_serving_does_not_know() -> None:
    rng = np.random.default_rng(0)
    user, post = random_columns("user", rng), random_columns("post", rng)
    post["post_profile__created_at"] = (AT - 7_200).astype(np.int64)
    post["post_profile__media_type"][:] = "video"
    user_names = list(user)
    crosses = cross_features(user, post, AT)
    assert np.nansum(crosses[f"{CROSS_VIEW}__history_topic_matches"]) > 0
    ids = np.arange(NUM_ROWS)
    request = {"request__hour": np.full(NUM_ROWS, 9)}
    labels = np.zeros((NUM_ROWS, len(HEADS)), dtype=np.float32)
    known = Examples({**user, **post, **crosses, **request}, labels, ids, ids, ids, AT)

    found = as_unknown_users(known).columns

    unknown = null_columns(user_names, NUM_ROWS)
    expected = {**unknown, **post, **cross_features(unknown, post, AT), **request}
    assert set(found) == set(expected)
    assert {f"{CROSS_VIEW}__{f.name}" for f in CROSS_FIELDS} <= set(found)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_about_the_share_is_forgotten_and_the_same_rows_each_time() -> None:
    rows = forgotten_rows(100_000, 0.02, seed=3)
    assert 1_800 < len(rows) < 2_200
    assert np.array_equal(rows, forgotten_rows(100_000, 0.02, seed=3))
    assert not np.array_equal(rows[:100], forgotten_rows(100_000, 0.02, seed=4)[:100])
    assert len(forgotten_rows(100, 0.0, seed=0)) == 0
