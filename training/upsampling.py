"""Rows of entities that training met seldom, learnt more than once."""

from dataclasses import replace

import numpy as np

from training.examples import Examples
from training.sampling import repeats

AT_LEAST = 20
"""Occurrences up to which an entity is sparse."""
MOST = 4
"""Times that one row is learnt at most."""


def upsampled(examples: Examples, column: str, at_least: int = AT_LEAST, most: int = MOST) -> Examples:
    """The examples with rows of rare entities of `column` repeated in place, weights corrected.

    Rows without the entity (-1) are left alone. Raises ValueError for a column that holds no ids.
    """
    ids = np.asarray(examples.columns[column])
    if ids.dtype.kind not in "iu" or ids.ndim != 1:
        raise ValueError(f"column {column} has dtype {ids.dtype} and shape {ids.shape}, expected one id per row")
    _, which, counts = np.unique(ids, return_inverse=True, return_counts=True)
    times = np.where(ids < 0, 1, repeats(counts[which], at_least, most))
    rows = np.repeat(np.arange(examples.num_rows), times)
    found = examples.take(rows)
    weights = np.ones(len(rows), dtype=np.float32) if found.weights is None else found.weights
    return replace(found, weights=(weights / times[rows]).astype(np.float32))
