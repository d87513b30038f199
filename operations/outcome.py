"""What closed-loop evaluation found: one row per policy, seed and served user, and the summary made from them.

Legend: N served requests, P slots of a slate.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operations.measure import (
    CEILING,
    FLOOR,
    Gain,
    Interval,
    Values,
    bootstrap_difference,
    exposure_gini,
    gains,
    has_headroom,
    slate_value,
    top_share,
)

NEW_USER_EVENTS = 5
"""A user with fewer impressions and engagements in the log than this counts as new."""


@dataclass(frozen=True)
class Served:
    """The slates one policy gave, a row per request. `post_ids` and `true_values` are [N, P], padded -1 and 0."""

    policy: str
    seeds: NDArray[np.int64]
    user_ids: NDArray[np.int64]
    post_ids: NDArray[np.int64]
    true_values: Values
    latency_ms: Values
    spec_version: str = ""
    degraded: Mapping[str, int] = field(default_factory=dict)
    """How many slates were degraded, by what failed."""

    def values(self) -> Values:
        """True value per slot of each slate, [N]."""
        slots = self.post_ids.shape[1]
        return np.array([slate_value(row, slots) for row in self.true_values])


@dataclass(frozen=True)
class PolicySummary:
    """One policy over every seed. Values are true expected value per slot of the slate."""

    policy: str
    spec_version: str
    value: float
    value_sd: float
    gain: Gain
    difference: float
    difference_interval: Interval
    gain_new_users: float
    topics_per_slate: float
    creators_per_slate: float
    creator_gini: float
    top_creator_share: float
    slots_filled: float
    latency_ms_p50: float
    latency_ms_p99: float
    degraded: Mapping[str, int]


@dataclass(frozen=True)
class Outcome:
    """The whole evaluation. `has_headroom` is false where even the oracle gains nothing, as in a null world."""

    dataset: str
    data_version: str
    seeds: tuple[int, ...]
    num_users: int
    num_new_users: int
    slots: int
    is_retrained: bool
    has_headroom: bool
    headroom: float
    policies: tuple[PolicySummary, ...]
    losses: tuple["Loss", ...] = ()
    models: Mapping[str, str] = field(default_factory=dict)
    at: str = ""
    """The platform's now at which every request was served, ISO 8601."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def policy(self, name: str) -> PolicySummary:
        """The summary of one policy. Raises KeyError for one that was not run."""
        return {p.policy: p for p in self.policies}[name]


@dataclass(frozen=True)
class Loss:
    """One step from the oracle down to the full funnel: what is left after it and what it cost.

    `gain` is the normalised gain of the best slate still possible; `recall` the share of the oracle's slate
    and `recall_top` of the 100 truly best eligible posts still among the candidates.
    """

    step: str
    candidates: float
    gain: float
    lost: float
    recall: float
    recall_top: float


@dataclass(frozen=True)
class PostFacts:
    """Topic and creator of every post by row, and how to find the row of an id."""

    post_ids: NDArray[np.int64]  # ascending
    topic_ids: NDArray[np.int64]
    creator_ids: NDArray[np.int64]
    num_creators: int

    @staticmethod
    def none() -> "PostFacts":
        """Facts of no posts."""
        nothing = np.empty(0, dtype=np.int64)
        return PostFacts(nothing, nothing, nothing, 0)

    def rows(self, post_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of the ids, same shape. Raises ValueError for an id that is not a post."""
        rows = np.searchsorted(self.post_ids, post_ids).clip(max=len(self.post_ids) - 1)
        if not np.array_equal(self.post_ids[rows], post_ids):
            raise ValueError("a slate holds posts that the log does not know")
        return rows


def summarise(
    served: Mapping[str, Served],
    facts: PostFacts,
    is_new_user: NDArray[np.bool_],
    rng: np.random.Generator,
    resamples: int = 1000,
) -> tuple[tuple[PolicySummary, ...], bool]:
    """Summaries in the order of `served`, and whether there was anything to win.

    All policies served the same requests in the same order; `is_new_user` [N] marks theirs.
    """
    first = served[FLOOR]
    values = {name: run.values() for name, run in served.items()}
    wins = has_headroom(values[FLOOR], values[CEILING])
    gain = gains(values, first.seeds, first.user_ids, rng, resamples)
    summaries = []
    for name, run in served.items():
        if not np.array_equal(run.user_ids, first.user_ids):
            raise ValueError(f"policy {name} served other users than {FLOOR}")
        per_seed = [float(values[name][run.seeds == seed].mean()) for seed in np.unique(run.seeds)]
        breakdown = _breakdown(run, facts)
        summaries.append(
            PolicySummary(
                policy=name,
                spec_version=run.spec_version,
                value=float(np.mean(per_seed)),
                value_sd=float(np.std(per_seed, ddof=1)) if len(per_seed) > 1 else 0.0,
                gain=gain[name],
                difference=float((values[name] - values[FLOOR]).mean()),
                difference_interval=bootstrap_difference(values[name], values[FLOOR], run.user_ids, rng, resamples),
                gain_new_users=_gain_of(values, name, is_new_user),
                degraded=dict(run.degraded),
                **breakdown,
            )
        )
    return tuple(summaries), wins


def _gain_of(values: Mapping[str, Values], name: str, chosen: NDArray[np.bool_]) -> float:
    if not chosen.any():
        return float("nan")
    headroom = float((values[CEILING] - values[FLOOR])[chosen].mean())
    return float((values[name] - values[FLOOR])[chosen].mean()) / headroom if headroom > 0 else float("nan")


def _breakdown(run: Served, facts: PostFacts) -> dict[str, float]:
    is_filled = run.post_ids >= 0
    rows = facts.rows(np.where(is_filled, run.post_ids, facts.post_ids[0]))
    creators = np.where(is_filled, facts.creator_ids[rows], -1)
    topics = np.where(is_filled, facts.topic_ids[rows], -1)
    _, counts = np.unique(creators[is_filled], return_counts=True)
    exposures = np.zeros(max(facts.num_creators, len(counts)), dtype=np.int64)
    exposures[: len(counts)] = counts
    return {
        "topics_per_slate": _distinct_per_row(topics),
        "creators_per_slate": _distinct_per_row(creators),
        "creator_gini": exposure_gini(exposures),
        "top_creator_share": top_share(exposures),
        "slots_filled": float(is_filled.mean()),
        "latency_ms_p50": float(np.percentile(run.latency_ms, 50)),
        "latency_ms_p99": float(np.percentile(run.latency_ms, 99)),
    }


def _distinct_per_row(ids: NDArray[np.int64]) -> float:
    """Mean number of distinct ids per row, -1 not counted."""
    return float(np.mean([len(np.unique(row[row >= 0])) for row in ids]))
