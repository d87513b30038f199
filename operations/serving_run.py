"""Serves every visit with one policy and judges the slates by the truth."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from events.synthetic.truth import Truth
from operations.outcome import Served
from operations.policies import Policy
from operations.truth_ranker import TrueValues
from operations.visits import Visit, user_ids_of

TOP = 100
"""Truly best eligible posts per request whose survival is followed through the funnel."""

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Run:
    """Slates of one policy, and where a true ranker ran first, the candidates it met per visit."""

    served: Served
    candidate_ids: tuple[Ids, ...] = ()
    top_ids: tuple[Ids, ...] = ()
    """The TOP best of the candidates by true value, per visit."""


def serve_all(
    policy: Policy,
    visits: Sequence[Visit],
    truth: Truth,
    weights: NDArray[np.float64],
    slots: int,
    advance: Callable[[], None] = lambda: None,
) -> Run:
    """Slates of `slots` posts for every visit, with the true value of each post; `weights` are of HEADS."""
    post_ids = np.full((len(visits), slots), -1, dtype=np.int64)
    true_values = np.zeros((len(visits), slots))
    latency_ms = np.zeros(len(visits))
    degraded: Counter[str] = Counter()
    candidates: list[Ids] = []
    tops: list[Ids] = []
    for place, visit in enumerate(visits):
        began = perf_counter()
        slate = policy.funnel.serve(replace(visit.request, limit=slots))
        latency_ms[place] = 1000 * (perf_counter() - began)
        degraded.update(slate.degraded)
        count = len(slate)
        post_ids[place, :count] = slate.post_ids
        true_values[place, :count] = values_of(truth, visit, slate.post_ids, weights)
        if policy.probe is not None:
            ids = policy.funnel.snapshot.catalogue.post_ids[policy.probe.last_rows]
            candidates.append(ids)
            if isinstance(policy.probe, TrueValues):
                tops.append(ids[np.argsort(-policy.probe.last_values, kind="stable")[:TOP]])
        advance()
    seeds = np.array([visit.seed for visit in visits], dtype=np.int64)
    served = Served(
        policy.name, seeds, user_ids_of(list(visits)), post_ids, true_values, latency_ms,
        policy.funnel.spec.version, dict(degraded),
    )  # fmt: skip
    return Run(served, tuple(candidates), tuple(tops))


def values_of(truth: Truth, visit: Visit, post_ids: Ids, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """True expected value of showing each post to the visit's user at its serve time, [N]."""
    users = np.full(len(post_ids), visit.request.user_id, dtype=np.int64)
    return np.asarray(truth.probabilities(users, post_ids, visit.request.at.timestamp()) @ weights, dtype=np.float64)


def joined(runs: Sequence[Run]) -> Run:
    """One run of the same policy over several seeds."""
    parts = [run.served for run in runs]
    degraded: Counter[str] = Counter()
    for part in parts:
        degraded.update(part.degraded)
    served = replace(
        parts[0],
        seeds=np.concatenate([part.seeds for part in parts]),
        user_ids=np.concatenate([part.user_ids for part in parts]),
        post_ids=np.concatenate([part.post_ids for part in parts]),
        true_values=np.concatenate([part.true_values for part in parts]),
        latency_ms=np.concatenate([part.latency_ms for part in parts]),
        degraded=dict(degraded),
    )
    return Run(
        served,
        tuple(ids for run in runs for ids in run.candidate_ids),
        tuple(ids for run in runs for ids in run.top_ids),
    )
