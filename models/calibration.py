"""Per-head calibrators: an affine map of the logit, monotone, as small as JSON.

p = sigmoid(slope * logit + intercept), slope > 0, fitted on a window later than the training rows.
Source: Platt, Probabilistic outputs for SVMs, 1999, here with a Gaussian prior around "leave it as it
is", so that a head with a handful of positives is not bent by noise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_SLOPE = 0.05
SLOPE_PRIOR_STD = 0.3
INTERCEPT_PRIOR_STD = 3.0
"""Wide: the mean must follow the data. The slope's prior is narrow."""


@dataclass(frozen=True)
class Calibrator:
    """The map of one head, and the rows and positives that it was fitted on."""

    slope: float = 1.0
    intercept: float = 0.0
    rows: int = 0
    positives: float = 0.0

    def apply(self, logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Calibrated probabilities, same shape."""
        return _sigmoid(np.asarray(logits, dtype=np.float64) * self.slope + self.intercept)

    def to_json(self) -> dict[str, float]:
        return asdict(self)

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> "Calibrator":
        return Calibrator(**fields)


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def apply_calibrators(logits_NH: NDArray[np.floating[Any]], calibrators: Sequence[Calibrator]) -> NDArray[np.float64]:
    """Calibrated probabilities [N, H]; without calibrators the plain sigmoid."""
    logits = np.asarray(logits_NH, dtype=np.float64)
    if not calibrators:
        return _sigmoid(logits)
    slopes = np.array([c.slope for c in calibrators])
    return _sigmoid(logits * slopes + np.array([c.intercept for c in calibrators]))


def fit_calibrator(
    logits: NDArray[np.floating[Any]],
    labels: NDArray[np.floating[Any]],
    weights: NDArray[np.floating[Any]] | None = None,
    max_steps: int = 50,
) -> Calibrator:
    """The maximum a posteriori map for observed rows (NaN labels are skipped); identity without rows.

    Newton's method on two parameters; at the optimum mean prediction equals mean outcome up to the
    intercept's prior.
    """
    is_observed = ~np.isnan(labels)
    x = np.asarray(logits, dtype=np.float64)[is_observed]
    y = np.asarray(labels, dtype=np.float64)[is_observed]
    w = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=np.float64)[is_observed]
    if not len(y):
        return Calibrator()
    prior_mean = np.array([1.0, 0.0])
    prior_precision = np.array([SLOPE_PRIOR_STD**-2, INTERCEPT_PRIOR_STD**-2])
    theta = np.array([1.0, 0.0])

    def objective(at: NDArray[np.float64]) -> float:
        z = at[0] * x + at[1]
        return float(
            (w * (np.logaddexp(0.0, z) - y * z)).sum() + 0.5 * (prior_precision * (at - prior_mean) ** 2).sum()
        )

    for _ in range(max_steps):
        p = _sigmoid(theta[0] * x + theta[1])
        error, curvature = w * (p - y), w * p * (1 - p)
        gradient = np.array([(error * x).sum(), error.sum()]) + prior_precision * (theta - prior_mean)
        off = (curvature * x).sum()
        hessian = np.array([[(curvature * x * x).sum(), off], [off, curvature.sum()]]) + np.diag(prior_precision)
        step = np.linalg.solve(hessian, gradient)
        length, before = 1.0, objective(theta)
        while objective(theta - length * step) > before and length > 1e-6:
            length /= 2
        theta = theta - length * step
        if np.abs(step).max() < 1e-9:
            break
    if theta[0] < MIN_SLOPE:  # never turn a ranking round: only the mean is corrected
        return _shift_only(x, y, w)
    return Calibrator(float(theta[0]), float(theta[1]), len(y), float((w * y).sum()))


def _shift_only(x: NDArray[np.float64], y: NDArray[np.float64], w: NDArray[np.float64]) -> Calibrator:
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        if (w * (_sigmoid(MIN_SLOPE * x + middle) - y)).sum() + middle * INTERCEPT_PRIOR_STD**-2 > 0:
            high = middle
        else:
            low = middle
    return Calibrator(MIN_SLOPE, (low + high) / 2, len(y), float((w * y).sum()))


def fit_calibrators(
    logits_NH: NDArray[np.floating[Any]],
    labels_NH: NDArray[np.floating[Any]],
    weights: NDArray[np.floating[Any]] | None = None,
) -> tuple[Calibrator, ...]:
    """One calibrator per head; also how a deployed model is recalibrated on its last known day."""
    return tuple(fit_calibrator(logits_NH[:, h], labels_NH[:, h], weights) for h in range(logits_NH.shape[1]))
