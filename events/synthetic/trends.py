"""Trending shocks: hours in which one topic's appeal is lifted."""

import numpy as np
from numpy.typing import NDArray

from events.synthetic.config import WorldConfig
from events.synthetic.topics import Topics

_SECONDS_PER_HOUR = 3_600.0


def draw_trends(config: WorldConfig, topics: Topics, rng: np.random.Generator) -> NDArray[np.float32]:
    """Lift in logits by hour since the burn-in began and leaf, [hours, leaves]; a shock rises at once and decays."""
    days = config.num_days + config.visits.burn_in_days
    hours = int(np.ceil(days * 24))
    lift = np.zeros((hours, topics.num_leaves))
    number = rng.poisson(config.trends.shocks_per_day * days)
    for start, leaf, height, decay in zip(
        rng.uniform(0, hours, size=number),
        rng.choice(topics.num_leaves, size=number, p=topics.popularity),
        config.trends.mean_lift * rng.gamma(4.0, 0.25, size=number),
        config.trends.mean_decay_hours * rng.gamma(4.0, 0.25, size=number) + 0.5,
        strict=True,
    ):
        age = np.arange(hours) - np.floor(start)
        lift[:, leaf] += np.where(age >= 0, height * np.exp(-np.maximum(age, 0) / decay), 0.0)
    return lift.astype(np.float32)


def trends_from(config: WorldConfig) -> float:
    """Unix seconds of the first hour of the table of lifts."""
    return config.start_seconds - config.visits.burn_in_days * 24 * _SECONDS_PER_HOUR
