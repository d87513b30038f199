"""Score adjustments before the final order: doubtful posts sink, new ones may rise. Depends on nothing but numpy."""

import numpy as np
from numpy.typing import NDArray


def downrank_doubtful(
    scores: NDArray[np.float64], integrity: NDArray[np.float32], below: float, strength: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores lowered by `strength` of their size where integrity is under `below`, and where that was so."""
    is_doubtful = integrity < below
    with np.errstate(invalid="ignore"):  # what is infinite becomes no number and sinks all the same
        return np.where(is_doubtful, scores - strength * np.abs(scores), scores), is_doubtful


def boost_fresh(
    scores: NDArray[np.float64], age_hours: NDArray[np.float64], boost: float, half_life_hours: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores raised by up to `boost` of their size for new posts, halving with age, and where it is over 1 %."""
    share = boost * np.power(0.5, np.maximum(age_hours, 0.0) / half_life_hours)
    with np.errstate(invalid="ignore"):
        return scores + share * np.abs(scores), share > 0.01
