from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from core.errors import FeatureStoreError
from core.schema import HEADS
from training.example_rows import CONTEXT_TEXTS
from training.examples import Examples, RequestColumns
from training.user_rows import is_of_user, once_per_request, user_row_of


def rows(**changed):
    moment = datetime(2026, 3, 1, tzinfo=UTC)
    columns = {"request_id": [5, 5, 5, 9, 9], "user_id": [1, 1, 1, 2, 2], "served_at": [moment] * 5}
    columns |= {f"request__{name}": ["x"] * 5 for name in CONTEXT_TEXTS}
    return pa.table(columns | changed)


def test_rows_of_a_request_share_a_user_row_unless_something_differs():
    assert user_row_of(rows()).tolist() == [0, 0, 0, 1, 1]
    assert user_row_of(rows(request__surface=["feed", "feed", "page", "page", "page"])).tolist() == [0, 0, 1, 2, 2]
    # Imported logs may have no requests: every row is its own.
    assert user_row_of(rows(request_id=[-1, -2, -3, -4, -5])).tolist() == [0, 1, 2, 3, 4]


def test_each_request_keeps_its_value_and_a_second_one_is_refused():
    place = np.array([3, 3, 4], dtype=np.int32)
    values = {"user__a": np.array([1.0, 1.0, np.nan]), "user__b": np.array([[1, 2], [1, 2], [3, 4]])}
    found = once_per_request(values, place, np.array([50, 50, 60]))
    np.testing.assert_array_equal(found["user__a"], [1.0, np.nan])
    assert found["user__b"].tolist() == [[1, 2], [3, 4]]
    values["user__b"][1, 1] = 7
    with pytest.raises(FeatureStoreError, match="user__b of request 50"):
        once_per_request(values, place, np.array([50, 50, 60]))


def test_features_of_user_and_request_are_the_user_side():
    names = ("user_history__history_kinds", "request__hour", "post_profile__topic_id", "user_post_cross__is_followed")
    assert [is_of_user(name) for name in names] == [True, True, False, False]


def shared_examples():
    user_of = np.array([0, 0, 1, 2, 2], dtype=np.int32)
    columns = RequestColumns({"post__a": np.arange(5)}, {"user__a": np.array([10, 20, 30])}, user_of)
    ids = np.arange(5)
    return Examples(columns, np.zeros((5, len(HEADS)), np.float32), ids, ids, ids, ids.astype(float))


def test_shared_columns_read_as_if_they_were_repeated():
    found = shared_examples()
    assert found.columns["user__a"].tolist() == [10, 10, 20, 30, 30]
    assert sorted(found.columns) == ["post__a", "user__a"]
    assert found.num_rows == 5


def test_taken_rows_bring_the_users_that_they_need():
    few = shared_examples().take(np.array([4, 0, 3]))
    users, user_of = few.users()
    assert users["user__a"].tolist() == [10, 30]
    assert user_of.tolist() == [1, 0, 1]
    assert few.columns["user__a"].tolist() == [30, 10, 30]
    assert shared_examples().take(slice(1, 3)).columns["user__a"].tolist() == [10, 20]


def test_a_user_index_of_another_length_is_refused():
    found = shared_examples()
    columns = RequestColumns(found.columns.own, found.columns.users, np.zeros(4, np.int32))
    with pytest.raises(ValueError, match="user_of"):
        Examples(columns, found.labels, *(found.user_ids,) * 3, found.served_at)
