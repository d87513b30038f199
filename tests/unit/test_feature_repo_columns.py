"""The array conventions of features: nulls, padding, types."""

import numpy as np
import pyarrow as pa
import pytest

from core.errors import InputError
from feature_repo.columns import columns_from_arrow, null_columns


def test_scalars_keep_their_type_and_show_null_by_convention() -> None:
    table = pa.table(
        {
            "user_profile__country": ["DE", None],
            "user_profile__registered_at": pa.array([5, None], pa.int64()),
            "user_profile__num_follows": pa.array([2.0, None], pa.float32()),
            "user_id": [1, 2],
        }
    )
    columns = columns_from_arrow(table)
    assert set(columns) == {"user_profile__country", "user_profile__registered_at", "user_profile__num_follows"}
    assert columns["user_profile__country"].tolist() == ["DE", ""]
    assert columns["user_profile__country"].dtype == object
    assert columns["user_profile__registered_at"].tolist() == [5, -1]
    assert columns["user_profile__registered_at"].dtype == np.int64
    assert columns["user_profile__num_follows"].dtype == np.float32
    assert columns["user_profile__num_follows"][0] == 2
    assert np.isnan(columns["user_profile__num_follows"][1])


def test_lists_are_padded_cut_and_survive_slices_and_chunks() -> None:
    long = list(range(60))
    lists = pa.chunked_array([pa.array([[1, 2], None], pa.list_(pa.int64())), pa.array([[], long, [7]]).slice(1)])
    columns = columns_from_arrow(pa.table({"user_history__history_post_ids": lists}))
    values = columns["user_history__history_post_ids"]
    assert values.shape == (4, 50)
    assert values[0].tolist() == [1, 2] + [-1] * 48
    assert values[1].tolist() == [-1] * 50
    assert values[2].tolist() == list(range(50))
    assert values[3].tolist() == [7] + [-1] * 49


def test_float_lists_are_padded_with_zero_whatever_their_arrow_type() -> None:
    fixed = pa.array([[0.5] * 32, None], pa.list_(pa.float32(), 32))
    values = columns_from_arrow(pa.table({"post_profile__content_embedding": fixed}))["post_profile__content_embedding"]
    assert values.dtype == np.float32
    assert values[0].tolist() == [0.5] * 32
    assert values[1].tolist() == [0.0] * 32


def test_a_column_of_nulls_and_an_int_column_that_pandas_made_float_are_read() -> None:
    table = pa.table(
        {
            "post_profile__creator_id": pa.array([3.0, float("nan")], pa.float64()),
            "post_profile__language": pa.nulls(2),
            "post_profile__content_codes": pa.nulls(2),
        }
    )
    columns = columns_from_arrow(table)
    assert columns["post_profile__creator_id"].tolist() == [3, -1]
    assert columns["post_profile__language"].tolist() == ["", ""]
    assert (columns["post_profile__content_codes"] == -1).all()


def test_null_columns_are_what_a_null_row_reads_as() -> None:
    names = ["post_profile__creator_id", "post_profile__language", "post_profile__content_embedding"]
    table = pa.table({n: pa.nulls(3) for n in names})
    for name, values in null_columns(names, 3).items():
        np.testing.assert_array_equal(values, columns_from_arrow(table)[name])


def test_an_unknown_feature_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="user_profile__shoe_size"):
        columns_from_arrow(pa.table({"user_profile__shoe_size": [1]}))
