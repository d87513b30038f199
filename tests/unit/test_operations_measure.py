"""The statistics of closed-loop evaluation against values worked out by hand."""

import numpy as np
import pytest

from operations.measure import (
    bootstrap_difference,
    bootstrap_gain,
    exposure_gini,
    gains,
    has_headroom,
    normalised_gain,
    slate_value,
    top_share,
)


def test_value_of_a_slate_is_the_mean_over_its_slots():
    assert slate_value(np.array([1.0, 2.0, 3.0]), 3) == pytest.approx(2.0)


def test_an_empty_slot_earns_nothing():
    assert slate_value(np.array([1.0, 2.0]), 4) == pytest.approx(0.75)


def test_gain_is_the_share_of_the_distance_from_random_to_oracle():
    # Means 1, 4 and 3: (3 - 1) / (4 - 1).
    assert normalised_gain(np.array([2.0, 4.0]), np.array([0.0, 2.0]), np.array([3.0, 5.0])) == pytest.approx(2 / 3)


def test_gain_without_headroom_is_not_a_number():
    same = np.array([1.0, 1.0])
    assert np.isnan(normalised_gain(same, same, same))


def test_random_is_zero_and_oracle_is_one_in_every_seed():
    rng = np.random.default_rng(0)
    floor = rng.normal(1, 0.1, 300)
    values = {"random": floor, "oracle": floor + 1, "half": floor + 0.5}
    found = gains(values, np.repeat([0, 1, 2], 100), np.arange(300), rng, resamples=50)
    assert found["random"].per_seed == pytest.approx((0, 0, 0))
    assert found["oracle"].per_seed == pytest.approx((1, 1, 1))
    assert found["half"].mean == pytest.approx(0.5)
    assert found["half"].sd == pytest.approx(0)


def test_spread_over_seeds_is_the_sample_deviation():
    values = {"random": np.zeros(2), "oracle": np.ones(2), "p": np.array([0.4, 0.6])}
    found = gains(values, np.array([1, 2]), np.array([1, 2]), np.random.default_rng(0), resamples=10)
    assert found["p"].sd == pytest.approx(np.sqrt(0.02))


def test_no_headroom_where_the_oracle_is_random_plus_noise():
    rng = np.random.default_rng(3)
    floor = rng.normal(1, 0.2, 500)
    assert not has_headroom(floor, floor + rng.normal(0, 0.05, 500))
    assert not has_headroom(floor, floor)


def test_headroom_where_the_oracle_is_clearly_better():
    floor = np.random.default_rng(3).normal(1, 0.2, 500)
    assert has_headroom(floor, floor + 0.5)


def test_a_single_user_proves_no_headroom():
    assert not has_headroom(np.array([1.0]), np.array([2.0]))


def test_bootstrap_interval_covers_the_truth_about_as_often_as_it_says():
    hits = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        floor = rng.normal(0, 1, 80)
        policy, ceiling = floor + rng.normal(0.6, 0.3, 80), floor + 1
        interval = bootstrap_gain(policy, floor, ceiling, np.arange(80), rng, resamples=200)
        hits += interval.low <= 0.6 <= interval.high
    assert 0.88 <= hits / 200 <= 0.99


def test_requests_of_one_user_are_drawn_together():
    rng = np.random.default_rng(1)
    per_user = rng.normal(0.5, 0.5, 20)
    values = np.repeat(per_user, 50)
    floor = np.zeros(1000)
    together = bootstrap_difference(values, floor, np.repeat(np.arange(20), 50), np.random.default_rng(0))
    apart = bootstrap_difference(values, floor, np.arange(1000), np.random.default_rng(0))
    assert together.high - together.low > 3 * (apart.high - apart.low)


def test_gini_is_zero_when_even_and_near_one_when_one_creator_takes_all():
    assert exposure_gini(np.full(10, 7)) == pytest.approx(0)
    assert exposure_gini(np.array([0, 0, 0, 8])) == pytest.approx(0.75)
    assert exposure_gini(np.zeros(5, dtype=np.int64)) == 0


def test_top_share_counts_the_most_shown_creators():
    assert top_share(np.array([90, 5, 5, 0]), share=0.25) == pytest.approx(0.9)
