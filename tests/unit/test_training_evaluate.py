"""Offline evaluation: recall by hand, and recalibration that never sees the day it is judged on."""

import numpy as np
import pytest

from core.schema import HEADS
from training.compare_ranking import recalibrated_by_day
from training.evaluate import recall, retrieval_queries
from training.examples import Examples
from training.splits import DAY_SECONDS, TimeSplit

CLICK = HEADS.index("click")


def examples(served_at: np.ndarray, clicks: np.ndarray, post_ids: np.ndarray | None = None) -> Examples:
    n = len(served_at)
    labels = np.zeros((n, len(HEADS)), dtype=np.float32)
    labels[:, CLICK] = clicks
    ids = np.arange(n)
    return Examples(
        {}, labels, ids, ids if post_ids is None else post_ids, ids, np.asarray(served_at, dtype=np.float64)
    )


def test_recall_by_hand_with_ties_in_their_middle() -> None:
    catalogue = np.array([30, 10, 20])
    scores = np.array([[3.0, 1.0, 2.0], [1.0, 1.0, 1.0]], dtype=np.float32)
    wanted = np.array([20, 10])
    # Ranks 1 and (0 above + 2 equal others) / 2 = 1: both inside the first 50.
    assert recall(lambda rows: scores[rows], wanted, catalogue)["recall_at_50"] == 1.0
    many = np.arange(200)
    everything_equal = np.zeros((1, 200), dtype=np.float32)
    found = recall(lambda rows: everything_equal[rows], np.array([7]), many)
    assert found == {"recall_at_50": 0.0, "recall_at_100": 1.0, "recall_at_500": 1.0}


def test_without_queries_recall_is_undefined() -> None:
    found = recall(lambda rows: np.zeros((0, 3), dtype=np.float32), np.array([], dtype=np.int64), np.array([1, 2, 3]))
    assert all(np.isnan(value) for value in found.values())


def test_queries_are_first_day_positives_whose_post_could_be_found() -> None:
    served = np.array([10.0, 20.0, 30.0, DAY_SECONDS + 10])
    test = examples(served, np.array([1, 0, 1, 1]), np.array([5, 5, 99, 5]))
    assert retrieval_queries(test, np.array([5, 6]), 0.0).served_at.tolist() == [10.0]


@pytest.fixture
def drifting() -> tuple[Examples, Examples, TimeSplit]:
    """Three days whose click rate doubles daily: one to calibrate, two to test."""
    rng = np.random.default_rng(0)
    at = np.repeat(np.arange(3) * DAY_SECONDS, 20_000) + rng.uniform(0, DAY_SECONDS, 60_000)
    clicks = rng.random(60_000) < np.repeat([0.05, 0.1, 0.2], 20_000)
    split = TimeSplit(-2 * DAY_SECONDS, -DAY_SECONDS, 0.0, DAY_SECONDS, 3 * DAY_SECONDS)
    return examples(at[:20_000], clicks[:20_000]), examples(at[20_000:], clicks[20_000:]), split


def test_each_test_day_is_calibrated_on_the_day_before(drifting: tuple[Examples, Examples, TimeSplit]) -> None:
    later, test, split = drifting
    flat = np.full((20_000, 1), -1.0), np.full((40_000, 1), -1.0)
    found = recalibrated_by_day(later, test, *flat, [CLICK], split)
    assert found[:20_000].mean() == pytest.approx(0.05, abs=0.005)
    assert found[20_000:].mean() == pytest.approx(0.10, abs=0.006)


def test_a_days_own_outcomes_do_not_reach_its_probabilities(drifting: tuple[Examples, Examples, TimeSplit]) -> None:
    later, test, split = drifting
    logits = np.random.default_rng(1).normal(size=(20_000, 1)), np.random.default_rng(2).normal(size=(40_000, 1))
    before = recalibrated_by_day(later, test, *logits, [CLICK], split)
    is_last = test.served_at >= 2 * DAY_SECONDS
    changed = test.labels.copy()
    changed[is_last] = 1.0
    other = examples(test.served_at, changed[:, CLICK])
    np.testing.assert_array_equal(before, recalibrated_by_day(later, other, *logits, [CLICK], split))
