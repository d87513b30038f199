"""What no model learns from: a tenth of the users, and the last days of the data."""

import math
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

HELD_OUT_SHARE = 0.1
DAY_SECONDS = 86_400.0
HOUR_SECONDS = 3_600.0


def hash64(ids: NDArray[np.int64], seed: int = 0) -> NDArray[np.uint64]:
    """A well mixed 64-bit hash of each id, [N]; the same on every machine. Source: splitmix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15) * np.uint64(seed + 1)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def is_held_out(user_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """True for the tenth of users, chosen by a hash of the id, that evaluations serve, [N]."""
    return hash64(np.asarray(user_ids, dtype=np.int64)) < np.uint64(int(HELD_OUT_SHARE * 2**64))


def test_days(kind: str) -> float:
    """Days at the end of the data that test, by the dataset's kind: a world is short, imported logs are not."""
    return 1.0 if kind == "world" else 2.0


def last_hour(last_event_at: datetime) -> float:
    """The full hour behind the last event, unix seconds: days of a split count back from it."""
    # One microsecond past the last event, so that an event on the full hour stays inside the last day.
    return math.ceil((last_event_at.timestamp() + 1e-6) / HOUR_SECONDS) * HOUR_SECONDS
