"""Splits by time only; users whose rows train nothing are in `core/held_out.py`.

Days count back from the end of the data, rounded up to the hour, in blocks of 24 hours, so that a log
kept in another time zone still falls into its own local days:

    | warm-up | train ............ | validation | calibration | test |
                                                              end of data ^
"""

from dataclasses import asdict, dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from core.held_out import DAY_SECONDS as DAY_SECONDS
from core.held_out import HOUR_SECONDS, last_hour
from core.held_out import is_held_out as is_held_out

SPLITS = ("train", "validation", "calibration", "test")


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
    until = last_hour(last_event_at)
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
