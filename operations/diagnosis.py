"""Where value is lost between the oracle and the full funnel, one stage at a time."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from operations.measure import CEILING, FLOOR, Values, normalised_gain
from operations.outcome import Loss
from operations.policies import FULL_FUNNEL, NO_FIRST_STAGE, TRUE_RANKING, TRUE_SECOND_STAGE
from operations.serving_run import Run

STEPS = (
    (CEILING, "everything eligible"),
    (TRUE_RANKING, "retrieval"),
    (TRUE_SECOND_STAGE, "first stage"),
    (FULL_FUNNEL, "second stage"),
)
"""Policies from the oracle down, and what the step to each of them adds to the losses."""


def losses(runs: Mapping[str, Run]) -> tuple[Loss, ...]:
    """One entry per step; all runs served the same visits. Empty where nothing is to be won."""
    values = {name: run.served.values() for name, run in runs.items()}
    if values[CEILING].mean() <= values[FLOOR].mean():
        return ()
    oracle_slates, best = runs[CEILING].served.post_ids, runs[CEILING].top_ids
    found: list[Loss] = []
    left = 1.0
    for policy, step in STEPS:
        gain = _gain(values, policy)
        candidates = runs[policy].candidate_ids or tuple(row[row >= 0] for row in runs[policy].served.post_ids)
        found.append(
            Loss(
                step=step,
                candidates=float(np.mean([len(ids) for ids in candidates])),
                gain=gain,
                lost=left - gain,
                recall=_recall(candidates, oracle_slates),
                recall_top=_recall(candidates, best),
            )
        )
        left = gain
    if NO_FIRST_STAGE in runs:
        slates = tuple(runs[NO_FIRST_STAGE].served.post_ids)
        gain = _gain(values, NO_FIRST_STAGE)
        found.append(
            Loss("without a first stage", float("nan"), gain, 0.0, _recall(slates, oracle_slates), float("nan"))
        )
    return tuple(found)


def _gain(values: Mapping[str, Values], policy: str) -> float:
    return normalised_gain(values[policy], values[FLOOR], values[CEILING])


def _recall(found: Sequence[NDArray[np.int64]], wanted: Sequence[NDArray[np.int64]] | NDArray[np.int64]) -> float:
    """Mean share of the wanted ids that were found, per request; ids of -1 are empty slots."""
    shares = [
        np.isin(want[want >= 0], have).mean() for have, want in zip(found, wanted, strict=True) if (want >= 0).any()
    ]
    return float(np.mean(shares)) if shares else float("nan")
