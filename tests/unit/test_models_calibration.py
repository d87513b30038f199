import numpy as np
import pytest

from models.calibration import Calibrator, apply_calibrators, fit_calibrator, fit_calibrators


def _drawn(slope, intercept, rows=50_000, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 1.5, rows)
    labels = (rng.random(rows) < 1 / (1 + np.exp(-(slope * logits + intercept)))).astype(np.float32)
    return logits, labels


def test_by_hand():
    assert Calibrator(2.0, 1.0).apply(np.array([0.5])) == pytest.approx(1 / (1 + np.exp(-2.0)))


def test_the_distortion_of_an_overconfident_model_is_found():
    logits, labels = _drawn(0.5, -0.7)
    found = fit_calibrator(logits, labels)
    assert found.slope == pytest.approx(0.5, abs=0.03)
    assert found.intercept == pytest.approx(-0.7, abs=0.05)
    assert found.apply(logits).mean() == pytest.approx(labels.mean(), rel=1e-3)


def test_order_is_kept_even_if_labels_are_reversed():
    logits, labels = _drawn(-1.0, 0.0)
    found = fit_calibrator(logits, labels)
    assert found.slope > 0
    assert found.apply(logits).mean() == pytest.approx(labels.mean(), rel=1e-3)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_a_window_of_one_class_gives_a_finite_map(label):
    logits = np.random.default_rng(0).normal(-3, 1, 5_000)
    found = fit_calibrator(logits, np.full(5_000, label))
    assert np.isfinite([found.slope, found.intercept]).all()
    assert abs(found.apply(logits).mean() - label) < 0.01


def test_no_rows_leave_the_model_as_it_is():
    assert fit_calibrator(np.empty(0), np.empty(0)) == Calibrator()
    assert fit_calibrator(np.zeros(3), np.full(3, np.nan)) == Calibrator()


def test_a_few_positives_move_the_mean_and_hardly_the_slope():
    rng = np.random.default_rng(3)
    logits = rng.normal(-5, 1, 400)
    labels = np.zeros(400)
    labels[rng.choice(400, 3, replace=False)] = 1
    found = fit_calibrator(logits, labels)
    assert abs(found.slope - 1) < 0.5
    assert found.apply(logits).sum() == pytest.approx(3, rel=0.2)


def test_weights_count_rows():
    logits, labels = _drawn(1.0, 0.3, rows=2_000)
    doubled = fit_calibrator(np.r_[logits, logits], np.r_[labels, labels])
    weighed = fit_calibrator(logits, labels, np.full(2_000, 2.0))
    assert (doubled.slope, doubled.intercept) == pytest.approx((weighed.slope, weighed.intercept), abs=1e-7)


def test_heads_are_fitted_apart_over_their_observed_rows():
    logits, labels = _drawn(0.6, 0.2)
    both = np.stack([labels, np.where(np.arange(len(labels)) % 2, labels, np.nan)], axis=1)
    found = fit_calibrators(np.stack([logits, logits], axis=1), both)
    assert found[1].rows == len(labels) // 2
    assert found[1].slope == pytest.approx(0.6, abs=0.05)
    applied = apply_calibrators(np.stack([logits, logits], axis=1), found)
    np.testing.assert_allclose(applied[:, 0], found[0].apply(logits))
    np.testing.assert_allclose(applied[:, 1], found[1].apply(logits))


def test_json_round_trip():
    found = Calibrator(0.7, -0.2, 100, 12.0)
    assert Calibrator.from_json(found.to_json()) == found
