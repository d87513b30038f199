"""Which rows of the log become examples: whole requests, kept or not by a hash of their id.

Keeping whole requests keeps every slate comparable with itself and lets request-level work be shared.
The decision depends on id and seed alone, so the same log gives the same rows on every machine.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def sampling_rate(num_rows: int, max_rows: int) -> float:
    """Share of requests to keep so that about `max_rows` rows remain; 1.0 when all fit."""
    if max_rows <= 0:
        raise ValueError(f"max_rows must be positive, not {max_rows}")
    return min(1.0, max_rows / max(num_rows, 1))


def keep_sql(group: str, rate: float, seed: int) -> str:
    """A SQL condition that holds for a share `rate` of the values of the SQL text expression `group`."""
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"rate must lie in [0, 1], not {rate}")
    if rate == 1.0:
        return "true"
    threshold = int(rate * 2**53)
    # The upper 53 bits: exactly what a double can hold, so the threshold means the same everywhere.
    return f"(md5_number_lower(concat('{seed}:', {group})) >> 11) < {threshold}"


def repeats(counts: NDArray[np.integer[Any]], at_least: int, most: int) -> NDArray[np.int64]:
    """How often to learn a row [N] whose entity occurs `counts` [N] times, so that it is learnt `at_least` times.

    At most `most` times. A repeat weighs one over the repeats, so that what is estimated stays the same; a table's
    row, whose steps do not grow with its gradients (Adagrad), still goes further.
    """
    if at_least < 1 or most < 1:
        raise ValueError(f"at_least is {at_least} and most {most}, expected 1 or more")
    wanted = -(-at_least // np.maximum(counts.astype(np.int64), 1))
    return np.clip(wanted, 1, most)


def balancing_weights(labels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights [N] for one binary label [N] under which positives and negatives weigh the same; mean 1.

    Rows without a label weigh 0. With one class only, every labelled row weighs the same.
    """
    is_known = ~np.isnan(labels)
    is_positive = is_known & (labels > 0.5)
    num_known, num_positive = int(is_known.sum()), int(is_positive.sum())
    weights = is_known.astype(np.float32)
    if 0 < num_positive < num_known:
        weights[is_positive] = num_known / (2 * num_positive)
        weights[is_known & ~is_positive] = num_known / (2 * (num_known - num_positive))
    return weights
