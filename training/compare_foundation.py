"""What the foundation model's vectors bring: the second stage with and without them, on the same rows and seeds.

Legend: N rows, H heads.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from core.schema import HEADS
from core.settings import Settings
from feature_repo.catalog import EXPORTED_VIEWS
from models.metrics import head_metrics
from training.compare_ranking import recalibrated_by_day
from training.examples import Examples
from training.set_files import ExampleSet, load_set
from training.splits import SplitConfig, time_split
from training.train import TrainOptions, fit_stage, load_second_stage, predict_logits

FEW = 5
WAYS: dict[str, tuple[str, ...]] = {"without": tuple(EXPORTED_VIEWS), "with": ()}
"""Views that each way leaves out."""

Told = Callable[[str], None]


@dataclass(frozen=True)
class Gain:
    """Test metrics per seed by group of rows, way (with, without) and name; rows per group."""

    rows: Mapping[str, int]
    metrics: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]

    def mean(self, group: str, way: str, metric: str) -> float:
        """Over seeds; NaN where no seed could measure it."""
        return float(np.mean([found.get(metric, np.nan) for found in self.metrics[group][way]]))

    def spread(self, group: str, metric: str) -> float:
        """Standard deviation over seeds of what the vectors add; NaN for one seed."""
        ways = self.metrics[group]
        gains = [
            w.get(metric, np.nan) - o.get(metric, np.nan) for w, o in zip(ways["with"], ways["without"], strict=True)
        ]
        return float(np.std(gains, ddof=1)) if len(gains) > 1 else float("nan")


def user_groups(test: Examples) -> dict[str, NDArray[np.bool_]]:
    """Rows [N] by how little was known of the user when the page was made: events, and posts engaged with."""
    events = np.nan_to_num(np.asarray(test.columns["user_foundation__num_events"]))
    engaged = (np.asarray(test.columns["user_history__history_post_ids"]) >= 0).sum(1)
    everyone = np.ones(test.num_rows, dtype=bool)
    return {"all": everyone, f"under {FEW} events": events < FEW, f"under {FEW} engagements": engaged < FEW}


def foundation_gain(settings: Settings, heads: Sequence[str], seeds: Sequence[int], told: Told) -> Gain:
    """Trains the second stage both ways for every seed and judges it on the test rows, recalibrated day by day.

    Raises InputError for a set without the vectors.
    """
    example_set = load_set(settings.workspace.training_sets, "second_stage")
    if "post_foundation__vector" not in example_set.manifest.columns:
        raise InputError(
            f"set {example_set.manifest.set_id} has no foundation vectors; run `python -m training foundation`, then "
            "`python -m training sets --set second_stage`"
        )
    groups = user_groups(example_set.examples("test"))
    found: dict[str, dict[str, list[Mapping[str, float]]]] = {g: {way: [] for way in WAYS} for g in groups}
    for seed in seeds:
        for way, left_out in WAYS.items():
            told(f"second stage {way}, seed {seed}")
            options = TrainOptions(seed=seed, without_views=left_out)
            for group, metrics in _judged(settings, example_set, heads, options, groups).items():
                found[group][way].append(metrics)
    return Gain({name: int(rows.sum()) for name, rows in groups.items()}, found)


def _judged(
    settings: Settings,
    example_set: ExampleSet,
    heads: Sequence[str],
    options: TrainOptions,
    groups: Mapping[str, NDArray[np.bool_]],
) -> dict[str, dict[str, float]]:
    data = settings.workspace.manifest()
    split = time_split(data.first_event_at, data.last_event_at, SplitConfig(**example_set.manifest.config["split"]))
    later, test = example_set.examples("calibration"), example_set.examples("test")
    columns = [HEADS.index(head) for head in heads]
    fitted = fit_stage(settings, "second_stage", options)
    with tempfile.TemporaryDirectory() as folder:  # judged as it would be served
        bundle = load_second_stage(fitted.save(Path(folder), {}))
    mine = [bundle.heads.index(head) for head in heads]
    known, asked = (predict_logits(bundle, part.columns)[:, mine] for part in (later, test))
    probabilities = recalibrated_by_day(later, test, known, asked, columns, split)
    labels, users = np.asarray(test.labels)[:, columns], np.asarray(test.user_ids)
    weights = np.ones(test.num_rows) if test.weights is None else np.asarray(test.weights)
    return {
        name: head_metrics(labels[rows], probabilities[rows], tuple(heads), users[rows], weights[rows])
        for name, rows in groups.items()
        if rows.any()
    }
