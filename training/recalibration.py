"""Recalibration day by day: each day is scored with calibrators that know the days before it and nothing later.

Legend: N rows, M of them from the first day on, H heads.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.calibration import apply_calibrators, fit_calibrators


def recalibrated(
    day_N: NDArray[np.int64],
    logits_NH: NDArray[np.floating[Any]],
    labels_NH: NDArray[np.floating[Any]],
    first_day: int,
    memory_days: int | None = None,
) -> NDArray[np.float64]:
    """Probabilities [M, H] of the rows from `first_day` on, in their order.

    `memory_days` is how many days back the calibrators look; None is all that `day_N` has.
    """
    is_scored = day_N >= first_day
    probabilities = np.empty(logits_NH.shape, dtype=np.float64)
    for day in np.unique(day_N[is_scored]):
        is_known = day_N < day
        if memory_days is not None:
            is_known &= day_N >= day - memory_days
        calibrators = fit_calibrators(logits_NH[is_known], labels_NH[is_known])
        probabilities[day_N == day] = apply_calibrators(logits_NH[day_N == day], calibrators)
    return probabilities[is_scored]
