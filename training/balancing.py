"""Balanced sampling of one binary label, and what it does to probabilities.

Rows with the label are repeated and rows without it left out, or the other way round. A model of the drawn rows is
off by a known amount: its logit is the true one plus `log_odds_shift` (King and Zeng, 2001). Adding the shift
to the logits in the loss alone leaves a model whose probabilities need no correction.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Balance:
    """How one label is balanced."""

    task: str = "click"
    positive_share: float = 0.5
    """Of the weight of the drawn rows."""
    most: float = 4.0
    """Times that one row is drawn at most, on average. As many rows are drawn as there are, fewer where this limits."""

    def __post_init__(self) -> None:
        if not 0 < self.positive_share < 1 or self.most < 1:
            raise ValueError(f"{self} needs a positive_share between 0 and 1 and a most of at least 1")


@dataclass(frozen=True)
class Drawn:
    """Rows [M] in ascending order, a row as often as it was drawn; `rates` [N]: how often to expect each row."""

    rows: NDArray[np.int64]
    rates: NDArray[np.float32]
    log_odds_shift: float


def draw_balanced(
    labels: NDArray[np.float32], weights: NDArray[np.float32] | None, balance: Balance, seed: int
) -> Drawn:
    """Rows drawn by `labels` [N], whose `weights` [N] stay theirs; rows with NaN are drawn once each.

    Raises ValueError if either class is missing.
    """
    is_positive = labels > 0.5
    masses = [float(_weight(weights, which)) for which in (is_positive, labels <= 0.5)]
    if min(masses) <= 0:
        raise ValueError(f"{balance.task} has one class only among {len(labels)} rows; train without balance")
    share = masses[0] / sum(masses)
    up, down = balance.positive_share / share, (1 - balance.positive_share) / (1 - share)
    scale = min(1.0, balance.most / max(up, down))
    rates = np.where(np.isnan(labels), 1.0, np.where(is_positive, up * scale, down * scale))
    whole = np.floor(rates)
    times = (whole + (np.random.default_rng(seed).random(len(labels)) < rates - whole)).astype(np.int64)
    rows = np.repeat(np.arange(len(labels)), times)
    return Drawn(rows, rates.astype(np.float32), float(np.log(up / down)))


def _weight(weights: NDArray[np.float32] | None, which: NDArray[np.bool_]) -> np.float64:
    return np.float64(which.sum() if weights is None else weights[which].sum(dtype=np.float64))
