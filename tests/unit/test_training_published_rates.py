import numpy as np
import pytest

from training.published.rates import NUM_FOLDS, fold_of, sums_before, sums_of_others


def test_only_earlier_rows_of_the_same_key_count_and_unobserved_ones_do_not():
    keys, at = np.array([5, 5, 5, 9, 5]), np.array([1, 2, 2, 1, 3])
    values = np.array([1.0, 0.0, np.nan, 1.0, 1.0])
    found = sums_before(keys, at, values, as_of=at)
    assert found.count.tolist() == [0, 1, 1, 0, 2]
    assert found.total.tolist() == [0, 1, 1, 0, 1]
    frozen = sums_before(keys, at, values, as_of=np.minimum(at, 2))
    assert frozen.count.tolist() == [0, 1, 1, 0, 1]
    assert found.rate(0.5, 2.0).tolist() == [0.5, 2 / 3, 2 / 3, 0.5, 0.5]


def test_sums_before_agree_with_a_slow_count():
    rng = np.random.default_rng(0)
    keys, at, as_of = rng.integers(-3, 4, 300), rng.integers(-9, 9, 300), rng.integers(-12, 12, 300)
    values = np.where(rng.random(300) < 0.2, np.nan, rng.random(300))
    found = sums_before(keys, at, values, as_of)
    for row in range(300):
        chosen = values[(keys == keys[row]) & (at < as_of[row])]
        assert found.count[row] == np.isfinite(chosen).sum()
        assert found.total[row] == pytest.approx(np.nansum(chosen))


def test_a_row_counts_neither_itself_nor_another_of_its_fold():
    keys, folds = np.array([1, 1, 1, 2]), np.array([0, 0, 3, 0])
    found = sums_of_others(keys, folds, np.array([1.0, 0.0, 1.0, 1.0]))
    assert found.count.tolist() == [1, 1, 2, 0]
    assert found.total.tolist() == [1, 1, 1, 0]


def test_users_spread_over_all_folds():
    folds = fold_of(np.arange(4_000))
    assert np.bincount(folds, minlength=NUM_FOLDS).min() > 400
    assert folds.max() < NUM_FOLDS
