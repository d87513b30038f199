import math

import numpy as np
import pytest
import torch

from models.encode import CLIP, encode
from models.features import Feature, FeatureSpec, fit_spec
from models.inputs import indexed_rows


def numeric(name, **fields):
    return Feature(name, "post", "numeric", **fields)


def test_numerics_are_transformed_standardised_and_flagged_by_hand():
    spec = FeatureSpec(
        (
            numeric("a", mean=2.0, std=4.0, has_missing_flag=True),
            numeric("b", transform="log1p", mean=1.0, std=2.0),
            numeric("c", transform="logit", mean=0.5, std=1.0),
        )
    )
    columns = {
        "a": np.array([4.0, np.nan], dtype=np.float32),
        "b": np.array([math.e - 1, -5.0], dtype=np.float32),
        "c": np.array([0.75, 0.5], dtype=np.float32),
    }
    got = encode(spec, "post", columns).numeric.numpy()
    np.testing.assert_allclose(got, [[0.5, 0.0, math.log(3) - 0.5, 0.0], [0.0, -0.5, -0.5, 1.0]], atol=1e-6)


def test_an_integer_column_has_minus_one_as_null_and_infinity_is_null_too():
    spec = FeatureSpec((numeric("n", has_missing_flag=True), numeric("x", has_missing_flag=True)))
    columns = {"n": np.array([-1, 3]), "x": np.array([np.inf, 1.0], dtype=np.float32)}
    assert encode(spec, "post", columns).numeric.tolist() == [[0.0, 0.0, 1.0, 1.0], [3.0, 1.0, 0.0, 0.0]]


def test_outliers_are_clipped():
    spec = FeatureSpec((numeric("x"),))
    assert encode(spec, "post", {"x": np.array([1e9, -1e9])}).numeric.tolist() == [[CLIP], [-CLIP]]


def test_fit_spec_measures_after_the_transform_without_nulls():
    columns = {"x": np.array([0.0, math.e**2 - 1, np.nan], dtype=np.float32), "flat": np.full(3, 7.0)}
    x, flat = fit_spec([numeric("x", transform="log1p"), numeric("flat")], columns).features
    assert (x.mean, x.std) == pytest.approx((1.0, 1.0), abs=1e-6)
    assert x.has_missing_flag
    assert (flat.mean, flat.std, flat.has_missing_flag) == (7.0, 1.0, False)


def test_features_that_are_null_together_share_one_flag():
    half = np.array([1.0, np.nan, 2.0, 3.0])
    other = np.array([1.0, 1.0, np.nan, 3.0])
    spec = fit_spec([numeric("a"), numeric("b"), numeric("c")], {"a": half, "b": half * 2, "c": other})
    assert [f.has_missing_flag for f in spec.features] == [True, False, True]
    assert spec.numeric_width("post") == 5


def test_ids_that_fit_have_their_own_row_and_null_has_row_zero():
    feature = Feature("post_id", "post", "categorical", table="post", num_rows=100, dim=4)
    rows = encode(FeatureSpec((feature,)), "post", {"post_id": np.arange(-1, 99)}).ids[:, 0]
    assert rows.tolist() == list(range(100))


def test_ids_beyond_the_table_are_hashed_inside_it():
    feature = Feature("post_id", "post", "categorical", table="post", num_rows=100, dim=4)
    ids = np.random.default_rng(0).integers(99, 2**62, 20_000)
    rows = encode(FeatureSpec((feature,)), "post", {"post_id": ids}).ids[:, 0].numpy()
    counts = np.bincount(rows, minlength=100)
    assert counts[0] == 0
    assert counts[1:].min() > 120  # 202 expected each


def test_sequences_share_rows_with_the_id_of_their_table_and_keep_their_padding():
    spec = FeatureSpec(
        (
            Feature("post_id", "post", "categorical", table="post", num_rows=50, dim=4),
            Feature("history", "user", "sequence", table="post", num_rows=50, dim=4, length=3),
        )
    )
    ids = np.array([7, 2**40])
    history = np.array([[7, 2**40, -1, 5], [-1, -1, -1, -1]])
    post = encode(spec, "post", {"post_id": ids}).ids[:, 0].tolist()
    assert encode(spec, "user", {"history": history}).sequences["history"].tolist() == [[*post, -1], [-1, -1, -1]]


def test_a_short_sequence_is_padded():
    spec = FeatureSpec((Feature("history", "user", "sequence", table="post", num_rows=50, dim=4, length=4),))
    assert encode(spec, "user", {"history": np.array([[3, 4]])}).sequences["history"].tolist() == [[4, 5, -1, -1]]


def test_codes_differ_by_position():
    spec = FeatureSpec((Feature("codes", "user", "codes", table="code", num_rows=1_000, dim=4, length=3),))
    first, second, null = encode(spec, "user", {"codes": np.array([[5, 5, -1]])}).ids[0].tolist()
    assert first != second
    assert null == -1


def test_codes_are_cut_behind_the_last_position_in_use():
    feature = Feature("codes", "user", "codes", table="code", num_rows=100, dim=4, length=8)
    values = np.full((4, 8), -1)
    values[2, 2] = 1
    assert fit_spec([feature], {"codes": values}).features[0].length == 3


def test_words_are_hashed_the_same_in_any_array_and_the_empty_word_is_null():
    spec = FeatureSpec((Feature("language", "user", "categorical", table="language", num_rows=64, dim=4),))
    as_objects = encode(spec, "user", {"language": np.array(["de", "", "en", "de"], dtype=object)}).ids
    as_text = encode(spec, "user", {"language": np.array(["de", "", "en", "de"])}).ids
    assert as_objects.tolist() == as_text.tolist()
    de, null, en, again = as_objects[:, 0].tolist()
    assert (null, de) == (0, again)
    assert de != en


def test_word_rows_never_change_between_versions():
    spec = FeatureSpec(
        (
            Feature("w", "user", "categorical", table="language", num_rows=1_000, dim=4),
            Feature("i", "user", "categorical", table="post", num_rows=1_000, dim=4),
        )
    )
    got = encode(spec, "user", {"w": np.array(["de"]), "i": np.array([123_456_789_012])}).ids[0].tolist()
    assert got == GOLDEN_ROWS


GOLDEN_ROWS = [938, 694]


def test_rows_by_feature_are_cut_out_of_the_id_matrix():
    spec = FeatureSpec(
        (
            Feature("codes", "user", "codes", table="code", num_rows=64, dim=4, length=2),
            Feature("language", "user", "categorical", table="language", num_rows=64, dim=4),
        )
    )
    encoded = encode(spec, "user", {"codes": np.array([[1, -1]]), "language": np.array(["de"])})
    rows = indexed_rows(spec, "user", encoded)
    assert rows["language"].shape == (1, 1)
    assert rows["codes"].shape == (1, 2)
    assert rows["codes"][0, 1] == -1


def test_embeddings_are_scaled_by_their_root_mean_square():
    feature = Feature("content", "post", "embedding", dim=2)
    columns = {"content": np.array([[3.0, 0.0], [0.0, 4.0], [np.nan, 1.0]], dtype=np.float32)}
    spec = fit_spec([feature], columns)
    assert spec.features[0].std == pytest.approx(math.sqrt(26 / 6))
    assert encode(spec, "post", columns).embeddings[2].tolist() == pytest.approx([0.0, 1 / math.sqrt(26 / 6)])


def test_take_gives_the_rows_in_order():
    spec = FeatureSpec((numeric("x"),))
    encoded = encode(spec, "post", {"x": np.arange(5.0)}).take(torch.tensor([3, 0]))
    assert encoded.numeric.tolist() == [[3.0], [0.0]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "columns missing: x"),
        ({"x": np.zeros(2), "ids": np.zeros((3, 2), dtype=int)}, "differ in rows"),
        ({"x": np.zeros(2), "ids": np.zeros(2, dtype=int)}, r"ids has shape \(2,\)"),
    ],
)
def test_wrong_columns_are_named(columns, message):
    ids = Feature("ids", "post", "sequence", table="post", num_rows=9, dim=4, length=2)
    spec = FeatureSpec((numeric("x"), ids)) if "ids" in columns else FeatureSpec((numeric("x"),))
    with pytest.raises(ValueError, match=message):
        encode(spec, "post", columns)


def test_floats_are_no_category():
    spec = FeatureSpec((Feature("c", "post", "categorical", table="t", num_rows=9, dim=4),))
    with pytest.raises(ValueError, match="dtype float64"):
        encode(spec, "post", {"c": np.zeros(2)})
