"""The calibrator against scikit-learn's logistic regression."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from models.calibration import fit_calibrator


@pytest.mark.parametrize("seed", range(3))
def test_with_many_rows_the_prior_vanishes_and_it_is_logistic_regression(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 2, 40_000)
    labels = (rng.random(40_000) < 1 / (1 + np.exp(-(1.4 * logits + 0.3)))).astype(float)
    expected = LogisticRegression(C=np.inf, tol=1e-10).fit(logits[:, None], labels)
    found = fit_calibrator(logits, labels)
    assert found.slope == pytest.approx(float(expected.coef_[0, 0]), abs=0.005)
    assert found.intercept == pytest.approx(float(expected.intercept_[0]), abs=0.005)
