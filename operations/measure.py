"""Statistics of closed-loop evaluation: true value per impression, its share of what was possible, spreads.

Legend: U users served by every policy, P posts of a slate. Values are in units of the spec's value model.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

FLOOR, CEILING = "random", "oracle"
"""Policies that bound the measure: 0 and 1 by construction."""

MIN_RELATIVE_HEADROOM = 0.02
"""Below this share of the random policy's own value there is nothing to win and no ratio is formed."""


@dataclass(frozen=True)
class Interval:
    """A percentile bootstrap interval at 95 %."""

    low: float
    high: float


@dataclass(frozen=True)
class Gain:
    """A policy's share of the value between random and oracle, over seeds and over users."""

    mean: float
    sd: float
    per_seed: tuple[float, ...]
    interval: Interval


def slate_value(true_values: Values, slots: int) -> float:
    """Mean true value per slot of one slate, [P] -> scalar; a slot left empty earns nothing."""
    if slots < 1:
        raise ValueError(f"slots must be positive, not {slots}")
    return float(true_values[:slots].sum() / slots)


def has_headroom(floor: Values, ceiling: Values) -> bool:
    """True when the oracle beats random by more than noise: over 2 % of random's value and over 3 standard errors."""
    difference = ceiling - floor
    headroom = float(difference.mean())
    error = float(difference.std(ddof=1) / np.sqrt(len(difference))) if len(difference) > 1 else float("inf")
    return headroom > MIN_RELATIVE_HEADROOM * abs(float(floor.mean())) and headroom > 3 * error


def normalised_gain(policy: Values, floor: Values, ceiling: Values) -> float:
    """(V - V_random) / (V_oracle - V_random) of means over users, each [U]; NaN without headroom."""
    headroom = float(ceiling.mean() - floor.mean())
    return float(policy.mean() - floor.mean()) / headroom if headroom > 0 else float("nan")


def bootstrap_gain(
    policy: Values,
    floor: Values,
    ceiling: Values,
    user_ids: NDArray[np.int64],
    rng: np.random.Generator,
    resamples: int = 1000,
) -> Interval:
    """Interval of the normalised gain when whole users, with all their requests, are drawn anew.

    The three policies are drawn together, so what makes a user easy for all of them cancels out.
    """
    sums, counts = sums_per_user(np.stack([policy, floor, ceiling]), user_ids)
    drawn = rng.integers(0, len(counts), (resamples, len(counts)))
    totals = sums[:, drawn].sum(axis=2) / counts[drawn].sum(axis=1)
    headroom = totals[2] - totals[1]
    gains = (totals[0] - totals[1])[headroom > 0] / headroom[headroom > 0]
    return percentile_interval(gains)


def bootstrap_difference(
    policy: Values, floor: Values, user_ids: NDArray[np.int64], rng: np.random.Generator, resamples: int = 1000
) -> Interval:
    """Interval of V - V_random when whole users are drawn anew."""
    sums, counts = sums_per_user((policy - floor)[None, :], user_ids)
    drawn = rng.integers(0, len(counts), (resamples, len(counts)))
    return percentile_interval(sums[0, drawn].sum(axis=1) / counts[drawn].sum(axis=1))


def sums_per_user(values: Values, user_ids: NDArray[np.int64]) -> tuple[Values, NDArray[np.int64]]:
    """Sums [K, users] of values [K, U] per distinct user, and how many rows each user has."""
    _, group, counts = np.unique(user_ids, return_inverse=True, return_counts=True)
    sums = np.zeros((len(values), len(counts)))
    for total, row in zip(sums, values, strict=True):
        np.add.at(total, group, row)
    return sums, counts.astype(np.int64)


def percentile_interval(draws: Values) -> Interval:
    """The middle 95 % of bootstrap draws; NaN when there are none."""
    if not len(draws):
        return Interval(float("nan"), float("nan"))
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(float(low), float(high))


def gains(
    values: Mapping[str, Values],
    seeds: NDArray[np.int64],
    user_ids: NDArray[np.int64],
    rng: np.random.Generator,
    resamples: int = 1000,
) -> dict[str, Gain]:
    """Gain of every policy from its true values [U], with the seed and user of each row."""
    floor, ceiling = values[FLOOR], values[CEILING]
    result = {}
    for name, policy in values.items():
        per_seed = tuple(
            normalised_gain(policy[seeds == seed], floor[seeds == seed], ceiling[seeds == seed])
            for seed in np.unique(seeds)
        )
        sd = float(np.std(per_seed, ddof=1)) if len(per_seed) > 1 else 0.0
        interval = bootstrap_gain(policy, floor, ceiling, user_ids, rng, resamples)
        result[name] = Gain(float(np.mean(per_seed)), sd, per_seed, interval)
    return result


def exposure_gini(exposures: NDArray[np.int64]) -> float:
    """Gini coefficient of exposures per creator, [creators] with zeros included: 0 even, 1 all on one."""
    ordered = np.sort(exposures.astype(np.float64))
    total = ordered.sum()
    if total == 0:
        return 0.0
    ranks = np.arange(1, len(ordered) + 1)
    return float((2 * (ranks * ordered).sum() / (len(ordered) * total)) - (len(ordered) + 1) / len(ordered))


def top_share(exposures: NDArray[np.int64], share: float = 0.01) -> float:
    """Share of all exposures that the most shown `share` of creators take, [creators] with zeros included."""
    top = max(1, round(len(exposures) * share))
    total = exposures.sum()
    return float(np.sort(exposures)[::-1][:top].sum() / total) if total else 0.0
