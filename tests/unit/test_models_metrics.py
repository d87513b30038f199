import math

import numpy as np
import pytest

from models.metrics import (
    auc,
    calibration,
    finite,
    gauc,
    head_metrics,
    log_loss,
    ndcg_at_k,
    normalised_entropy,
    recall_at_k,
)


def test_auc_counts_pairs_and_halves_ties():
    # Positives .8 and .4; negatives .4 and .1: pairs 1, 1, ½, 1 of 4.
    assert auc(np.array([1, 0, 1, 0]), np.array([0.8, 0.4, 0.4, 0.1])) == pytest.approx(3.5 / 4)


def test_auc_of_one_class_or_nothing_is_undefined():
    assert math.isnan(auc(np.ones(3), np.arange(3.0)))
    assert math.isnan(auc(np.empty(0), np.empty(0)))


def test_gauc_weighs_users_by_positives_and_skips_those_with_one_class():
    labels = np.array([1, 0, 1, 1, 0, 1, 1])
    scores = np.array([0.9, 0.1, 0.2, 0.8, 0.5, 0.7, 0.6])
    users = np.array([1, 1, 2, 2, 2, 3, 3])
    # User 1: AUC 1 with one positive; user 2: pairs (.2, .5) wrong, (.8, .5) right = ½ with two; user 3 skipped.
    assert gauc(labels, scores, users) == pytest.approx((1 * 1 + 0.5 * 2) / 3)
    assert gauc(labels, scores, users, weight="rows") == pytest.approx((1 * 2 + 0.5 * 3) / 5)


def test_normalised_entropy_is_one_for_the_base_rate_and_lower_for_knowledge():
    labels = np.array([1, 0, 0, 0])
    assert normalised_entropy(labels, np.full(4, 0.25)) == pytest.approx(1.0)
    # Log loss of .7 and three times .1, over the entropy of a quarter.
    expected = -(math.log(0.7) + 3 * math.log(0.9)) / 4 / -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert normalised_entropy(labels, np.array([0.7, 0.1, 0.1, 0.1])) == pytest.approx(expected)


def test_calibration_is_mean_prediction_over_mean_outcome():
    assert calibration(np.array([1, 0, 0, 1]), np.array([0.5, 0.2, 0.2, 0.3])) == pytest.approx(0.3 / 0.5)
    assert calibration(np.array([1, 0]), np.array([0.5, 0.2]), weights=np.array([1, 3])) == pytest.approx(0.275 / 0.25)
    assert math.isnan(calibration(np.zeros(2), np.full(2, 0.1)))


def test_log_loss_survives_certainty():
    assert math.isfinite(log_loss(np.array([1.0, 0.0]), np.array([0.0, 1.0])))


def test_ndcg_discounts_by_place_within_the_group():
    labels = np.array([0, 1, 1, 0, 0])
    scores = np.array([0.9, 0.8, 0.1, 0.5, 0.4])
    users = np.array([7, 7, 7, 9, 9])
    # User 7: order 0, 1, 1 of which two places count; ideal 1, 1. User 9 has no positive.
    value = (1 / math.log2(3)) / (1 + 1 / math.log2(3))
    assert ndcg_at_k(labels, scores, users, 2) == pytest.approx(value)
    assert ndcg_at_k(labels, scores, users, 2, without_positives="zero") == pytest.approx(value / 2)


def test_recall_is_the_share_of_relevant_found_among_the_first_k():
    found = np.array([[5, 6, 7], [1, 2, 3], [4, 4, 4]])
    relevant = [np.array([6, 9]), np.array([1]), np.array([], dtype=np.int64)]
    assert recall_at_k(found, relevant, 2) == pytest.approx((0.5 + 1.0) / 2)
    assert recall_at_k(found, relevant, 1) == pytest.approx((0.0 + 1.0) / 2)


def test_head_metrics_use_observed_rows_only():
    labels = np.array([[1.0, np.nan], [0.0, np.nan], [np.nan, np.nan]])
    found = head_metrics(
        labels, np.array([[0.9, 0.5], [0.1, 0.5], [0.99, 0.5]]), ("click", "like"), np.array([1, 1, 1])
    )
    assert found["auc_click"] == 1.0
    assert found["rate_click"] == 0.5
    assert found["calibration_click"] == pytest.approx(1.0)
    assert math.isnan(found["auc_like"])
    assert "auc_like" not in finite(found)
