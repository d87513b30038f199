"""Splits by time only, and the users whose rows train nothing.

Days count back from the end of the data, rounded up to the hour, in blocks of 24 hours, so that a log
kept in another time zone still falls into its own local days:

    | warm-up | train ............ | validation | calibration | test |
                                                              end of data ^
"""

import math
from dataclasses import asdict, dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError

SPLITS = ("train", "validation", "calibration", "test")
HELD_OUT_SHARE = 0.1
DAY_SECONDS = 86_400.0
HOUR_SECONDS = 3_600.0


@dataclass(frozen=True)
class SplitConfig:
    """How many days each part takes; train takes what is left after the warm-up.

    With `validation_days` 0 the calibration day also decides when training stops.
    """

    warmup_days: float = 2.0
    validation_days: float = 0.5
    calibration_days: float = 1.0
    test_days: float = 1.0


@dataclass(frozen=True)
class TimeSplit:
    """Boundaries in unix seconds; each part is [from, until) and the next part begins where it ends."""

    train_from: float
    validation_from: float
    calibration_from: float
    test_from: float
    test_until: float

    def assign(self, served_at: NDArray[np.float64]) -> NDArray[np.int8]:
        """Index into SPLITS of each instant, [N]; -1 during warm-up and after the end."""
        edges = np.array([self.train_from, self.validation_from, self.calibration_from, self.test_from])
        part = np.searchsorted(edges, served_at, side="right") - 1
        return np.where(served_at < self.test_until, part, -1).astype(np.int8)

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def time_split(first_event_at: datetime, last_event_at: datetime, config: SplitConfig) -> TimeSplit:
    """Boundaries for data of this span. Raises InputError when no day is left to train on."""
    first = first_event_at.timestamp()
    # One microsecond past the last event, so that an event on the full hour stays inside the last day.
    until = math.ceil((last_event_at.timestamp() + 1e-6) / HOUR_SECONDS) * HOUR_SECONDS
    test_from = until - config.test_days * DAY_SECONDS
    calibration_from = test_from - config.calibration_days * DAY_SECONDS
    validation_from = calibration_from - config.validation_days * DAY_SECONDS
    train_from = first + config.warmup_days * DAY_SECONDS
    if validation_from - train_from < HOUR_SECONDS:
        least = config.warmup_days + config.validation_days + config.calibration_days + config.test_days
        raise InputError(
            f"data from {first_event_at:%Y-%m-%d %H:%M} to {last_event_at:%Y-%m-%d %H:%M} UTC leaves no time to train: "
            f"{config} needs more than {least:g} days; import a longer log"
        )
    return TimeSplit(train_from, validation_from, calibration_from, test_from, until)


def hash64(ids: NDArray[np.int64], seed: int = 0) -> NDArray[np.uint64]:
    """A well mixed 64-bit hash of each id, [N]; the same on every machine. Source: splitmix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15) * np.uint64(seed + 1)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def is_held_out(user_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """True for the tenth of users, chosen by a hash of the id, that closed-loop evaluation serves, [N]."""
    return hash64(np.asarray(user_ids, dtype=np.int64)) < np.uint64(int(HELD_OUT_SHARE * 2**64))
