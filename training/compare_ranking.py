"""Ranking compared: the second stage beside LightGBM, popularity and the base rate on the same test rows.

Several seeds train both learners anew, so that a lead can be held against what chance moves.
Where the log is split by days, each test day is scored after recalibration on the last day known before it.
Legend: N rows, H heads.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import BundleError
from core.schema import HEADS
from core.settings import Settings
from models.bundle import SecondStageBundle
from models.metrics import head_metrics
from training.baselines import LightGbmConfig, fit_lightgbm, lightgbm_columns
from training.examples import Examples
from training.publish import champion_bundle
from training.recalibration import recalibrated
from training.set_files import ExampleSet
from training.splits import DAY_SECONDS, TimeSplit
from training.train import TrainOptions, fit_stage, load_second_stage, predict_logits

Told = Callable[[str], None]
Metrics = Mapping[str, float]
Logits = tuple[NDArray[Any], NDArray[Any]]
"""Of the calibration rows and of the test rows, [N, H] each."""


@dataclass(frozen=True)
class Ranking:
    """Metrics per model: mean over seeds, and their standard deviation where there were several."""

    mean: Mapping[str, Metrics]
    spread: Mapping[str, Metrics]
    rows: int
    seeds: int


@dataclass(frozen=True)
class _Comparison:
    """The rows of one comparison and how they are judged."""

    settings: Settings
    example_set: ExampleSet
    split: TimeSplit
    heads: tuple[str, ...]
    train: Examples
    validation: Examples
    later: Examples
    test: Examples
    told: Told

    @property
    def columns(self) -> list[int]:
        return [HEADS.index(head) for head in self.heads]

    def metrics(self, logits: Logits) -> Metrics:
        probabilities = recalibrated_by_day(self.later, self.test, *logits, self.columns, self.split)
        labels = self.test.labels[:, self.columns]
        return head_metrics(labels, probabilities, self.heads, self.test.user_ids, self.test.weights)

    def of_both(self, score: Callable[[Examples], NDArray[Any]]) -> Logits:
        return score(self.later), score(self.test)


def compare_ranking(
    settings: Settings,
    example_set: ExampleSet,
    split: TimeSplit,
    heads: Sequence[str],
    told: Told,
    seed: int = 0,
    num_seeds: int = 1,
) -> Ranking:
    """The champion and its baselines; further seeds train the second stage and LightGBM anew on the same rows."""
    has_own = bool(example_set.manifest.rows_by_split.get("validation"))
    later = example_set.examples("calibration")
    rows = _Comparison(
        settings,
        example_set,
        split,
        tuple(heads),
        example_set.examples("train"),
        example_set.examples("validation") if has_own else later,
        later,
        example_set.examples("test"),
        told,
    )
    base = np.array([np.nanmean(rows.train.labels[:, c]) for c in rows.columns])
    found = {
        "second stage": [rows.metrics(_champion_logits(rows))],
        "LightGBM": [rows.metrics(_lightgbm_logits(rows, seed))],
        "popularity": [rows.metrics(rows.of_both(lambda part: _popularity_logits(part, heads)))],
        "base rate": [rows.metrics(rows.of_both(lambda part: np.tile(_logit(base), (part.num_rows, 1))))],
    }
    for other in range(seed + 1, seed + num_seeds):
        found["second stage"].append(rows.metrics(_anew_logits(rows, other)))
        found["LightGBM"].append(rows.metrics(_lightgbm_logits(rows, other)))
    return Ranking(_over_seeds(found, np.mean), _over_seeds(found, _deviation), rows.test.num_rows, num_seeds)


def _over_seeds(
    found: Mapping[str, list[Metrics]], fold: Callable[[NDArray[np.float64]], Any]
) -> dict[str, dict[str, float]]:
    return {
        model: {name: float(fold(np.array([m[name] for m in runs]))) for name in runs[0]}
        for model, runs in found.items()
        if fold is np.mean or len(runs) > 1
    }


def _deviation(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1))


def _champion_logits(rows: _Comparison) -> Logits:
    rows.told("second stage")
    bundle = load_second_stage(champion_bundle(rows.settings, "second_stage"))
    if bundle.manifest["versions"].get("set_id") != rows.example_set.manifest.set_id:
        raise BundleError(
            f"second stage {bundle.bundle_id} was trained on set {bundle.manifest['versions'].get('set_id')}, the set "
            f"on disk is {rows.example_set.manifest.set_id}; run `python -m training second-stage`"
        )
    return _bundle_logits(rows, bundle)


def _anew_logits(rows: _Comparison, seed: int) -> Logits:
    rows.told(f"second stage, seed {seed}")
    fitted = fit_stage(rows.settings, "second_stage", TrainOptions(seed=seed))
    with tempfile.TemporaryDirectory() as folder:  # judged as it would be served
        return _bundle_logits(rows, load_second_stage(fitted.save(Path(folder), {})))


def _bundle_logits(rows: _Comparison, bundle: SecondStageBundle) -> Logits:
    mine = [bundle.heads.index(head) for head in rows.heads]
    return rows.of_both(lambda part: predict_logits(bundle, part.columns)[:, mine])


def _lightgbm_logits(rows: _Comparison, seed: int) -> Logits:
    names = lightgbm_columns(rows.train.columns)
    config = LightGbmConfig(num_threads=rows.settings.num_threads, seed=seed)
    models = []
    for head, column in zip(rows.heads, rows.columns, strict=True):
        rows.told(f"LightGBM {head}, seed {seed}")
        models.append(fit_lightgbm(rows.train, rows.validation, column, names, config))
    return rows.of_both(lambda part: np.stack([_logit(m.probabilities(part.columns)) for m in models], axis=1))


def recalibrated_by_day(
    later: Examples,
    test: Examples,
    later_logits: NDArray[Any],
    test_logits: NDArray[Any],
    label_columns: Sequence[int],
    split: TimeSplit,
) -> NDArray[np.float64]:
    """Probabilities of the test rows [N, H]; each day's calibrators know the day before it and nothing later."""
    day = np.concatenate([_days(later, split), _days(test, split)])
    labels = np.concatenate([later.labels, test.labels])[:, label_columns]
    return recalibrated(day, np.concatenate([later_logits, test_logits]), labels, first_day=0, memory_days=1)


def _days(part: Examples, split: TimeSplit) -> NDArray[np.int64]:
    """Days since the test part begins, [N]."""
    days: NDArray[np.int64] = np.floor((part.served_at - split.test_from) / DAY_SECONDS).astype(np.int64)
    return days


def _logit(p: NDArray[Any]) -> NDArray[np.float64]:
    clipped = np.clip(np.asarray(p, dtype=np.float64), 1e-6, 1 - 1e-6)
    logits: NDArray[np.float64] = np.log(clipped) - np.log1p(-clipped)
    return logits


def _popularity_logits(part: Examples, heads: Sequence[str]) -> NDArray[np.float64]:
    """The post's own smoothed rate so far as its score; a post nobody saw has the prior's, here 0.5 % odds."""
    rates = [np.nan_to_num(part.columns[f"post_activity__rate_{head}_total"], nan=0.005) for head in heads]
    return _logit(np.stack(rates, axis=1))
