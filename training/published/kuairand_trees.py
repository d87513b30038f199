"""LightGBM's prediction of the rarest head as a column of the networks: few positives want trees' shallow splits.

Trees of one half of the users predict the other half's training rows, so that no label tells itself; validation and
test rows get the mean of both.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models.features import Feature
from training.baselines import LightGbmConfig, fit_lightgbm
from training.examples import Examples
from training.published.kuairand_log import HEADS
from training.published.kuairand_parts import Parts
from training.published.kuairand_spec import tree_columns
from training.published.rates import NUM_FOLDS, fold_of

RARE_HEADS = ("profile_enter",)


def with_trees(parts: Parts, config: LightGbmConfig) -> Parts:
    """The parts with a column `cross__trees_rate_HEAD` for each rare head, a probability."""
    train, valid, test = parts.train, parts.valid, parts.test
    features = list(parts.features)
    for head in RARE_HEADS:
        name = f"cross__trees_rate_{head}"
        of_train, of_valid, of_test = _predicted(parts, HEADS.index(head), config)
        train, valid, test = _with(train, name, of_train), _with(valid, name, of_valid), _with(test, name, of_test)
        features.append(Feature(name, "cross", "numeric", "logit"))
    return Parts(train, valid, test, features)


def _predicted(parts: Parts, head: int, config: LightGbmConfig) -> list[NDArray[np.float64]]:
    is_second = fold_of(parts.train.user_ids) >= NUM_FOLDS // 2
    names = tree_columns(parts.train.columns)
    found = [np.zeros(part.num_rows) for part in (parts.train, parts.valid, parts.test)]
    for is_learnt in (is_second, ~is_second):
        learnt, other = np.flatnonzero(is_learnt), np.flatnonzero(~is_learnt)
        rest = parts.train.take(other)
        model = fit_lightgbm(parts.train.take(learnt), rest, head, names, config)
        found[0][other] = model.probabilities(rest.columns)
        for values, part in zip(found[1:], (parts.valid, parts.test), strict=True):
            values += model.probabilities(part.columns) / 2
    return found


def _with(part: Examples, name: str, values: NDArray[np.float64]) -> Examples:
    return replace(part, columns={**part.columns, name: values.astype(np.float32)})
