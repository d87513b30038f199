"""`python -m training benchmark gowalla|movielens1m`: retrieval and its baselines on a published pair split."""

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path

from core.clock import WallClock
from core.files import content_hash, file_hash
from core.settings import Settings
from training.device import training_device
from training.loop import FittedModel
from training.publish import cost_metrics, history_curves
from training.published.full_ranking import full_ranking
from training.published.outcome import Outcome, SeedRun, Told
from training.published.pair_baselines import pair_baselines
from training.published.pair_towers import ServedPairs, fit_pairs, pair_config
from training.published.pairs import PairSplit, read_pair_split
from training.tracking import RunRecord, Tracker

TWO_TOWER = "two-tower"


def benchmark_pairs(
    settings: Settings, folder: Path, num_seeds: int, told: Told, *, is_quick: bool, is_tuning: bool
) -> Outcome:
    """Two towers and baselines on the split in `folder`; for tuning, on a split of its train part.

    Bundles, index and MLflow runs go to the settings' workspace. Raises InputError for a bad file.
    """
    split = read_pair_split(folder)
    if is_tuning:
        split = split.for_tuning(seed=0)
    data_version = content_hash([file_hash(folder / name) for name in ("train.txt", "test.txt")], 16)
    tags = {"data_version": data_version, "is_tuning": str(is_tuning)}
    tracker = Tracker(settings)
    runs: dict[str, list[SeedRun]] = {TWO_TOWER: []}
    for seed in range(num_seeds):
        run, record = _two_tower(settings, split, seed, told, is_quick)
        runs[TWO_TOWER].append(run)
        tracker.record(replace(record, tags={**record.tags, **tags}))
    for name, fit in pair_baselines(split, 0, is_quick, settings.num_threads).items():
        told(name, 0, 1)
        started, started_at = time.perf_counter(), WallClock().now()
        ranker = fit()
        seconds = time.perf_counter() - started
        runs[name] = [SeedRun(full_ranking(split, ranker), seconds)]
        tracker.record(_baseline_record(name, runs[name][0], tags, started_at))
    return Outcome(settings.dataset, runs)


def _two_tower(
    settings: Settings, split: PairSplit, seed: int, told: Told, is_quick: bool
) -> tuple[SeedRun, RunRecord]:
    config = pair_config(len(split.train), split.num_users, is_quick)
    title = f"{TWO_TOWER}, seed {seed}"
    started, started_at = time.perf_counter(), WallClock().now()
    fitted = fit_pairs(
        split.train,
        split.num_users,
        split.num_posts,
        config,
        seed,
        lambda done, total: told(title, done, total),
        settings.num_threads,
        training_device(settings.device),
    )
    served = ServedPairs.of(fitted, settings.workspace.root, split.num_posts)
    seconds = time.perf_counter() - started
    run = SeedRun(full_ranking(split, served.ranker()), seconds)
    return run, _record(fitted, served, asdict(config) | {"seed": seed, "is_quick": is_quick}, run, started_at)


def _record(
    fitted: FittedModel, served: ServedPairs, config: dict[str, object], run: SeedRun, started_at: datetime
) -> RunRecord:
    return RunRecord(
        kind="retrieval",
        config=config,
        tags={"bundle_id": served.bundle.bundle_id, "index_id": served.index.manifest.index_id, "recipe": "pairs"},
        metrics={
            **run.metrics,
            **cost_metrics(served.bundle.manifest),
            "seconds": run.seconds,
            "vector_bytes": served.vector_bytes(),
        },
        curves=history_curves(fitted.history),
        started_at=started_at,
    )


def _baseline_record(name: str, run: SeedRun, tags: Mapping[str, str], started_at: datetime) -> RunRecord:
    metrics = {**run.metrics, "seconds": run.seconds}
    return RunRecord("retrieval", {"model": name}, {"recipe": name, **tags}, metrics, started_at=started_at)
