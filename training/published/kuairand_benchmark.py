"""`python -m training benchmark kuairand`: the second stage on KuaiRand, ranking within users and every engagement.

GAUC is the AUC per user weighted by positives, users of one class left out; nDCG@5 is over all users. AUC, NE and
calibration are of probabilities recalibrated each day on the day before, as the platform's evaluation does;
`calibration_frozen_*` is that of the calibrators fitted once on the validation day.
Legend: N rows, H heads.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.clock import WallClock
from core.errors import InputError
from core.files import content_hash, file_hash
from core.settings import Settings
from models.bundle import read_manifest
from models.calibration import apply_calibrators, fit_calibrators
from models.metrics import calibration, finite, gauc, head_metrics, ndcg_at_k
from training.bootstrap import Interval, compare
from training.device import training_device
from training.publish import cost_metrics, history_curves
from training.published import kuairand_models as models
from training.published.kuairand_log import HEADS, read_kuairand
from training.published.kuairand_parts import Parts, days_of, kuairand_parts
from training.published.outcome import Outcome, SeedRun, Told
from training.recalibration import recalibrated
from training.tracking import RunRecord, Tracker

MULTI, ONE, SINGLE, TREES = "multi-task", "multi-task, one network", "single-task", "LightGBM"
PAIRS = ((MULTI, SINGLE), (MULTI, TREES), (ONE, SINGLE))
RANKED = "long_view"
MIN_POSITIVES = 500
"""Test positives from which on a head's figures say something."""
QUICK_USERS = 0.1
SHOWN = ("gauc", "ndcg@5", "auc_long_view", "auc_click")


@dataclass(frozen=True)
class _Judged:
    metrics: Mapping[str, float]
    probabilities: NDArray[np.float64]


def benchmark_kuairand(
    settings: Settings, folder: Path, num_seeds: int, told: Told, *, is_quick: bool, is_tuning: bool
) -> Outcome:
    """All models with all seeds. Raises InputError for a bad row, with file and line."""
    told("read the files", 0, 1)
    data = read_kuairand(folder)
    told("features as known at the time", 0, 1)
    parts = kuairand_parts(data, is_tuning=is_tuning, user_share=QUICK_USERS if is_quick else 1.0)
    judge = _Judge(settings, parts, told, is_quick, _tags(folder, is_tuning))
    runs: dict[str, list[SeedRun]] = {name: [] for name in (MULTI, ONE, SINGLE, TREES)}
    intervals: dict[str, list[Interval]] = {}
    for seed in range(num_seeds):
        trees, of_trees = judge.lightgbm(seed)
        found = {**judge.multi_task(seed, trees), SINGLE: judge.single_task(seed), TREES: of_trees}
        for name, (run, _) in found.items():
            runs[name].append(run)
        for name, interval in judge.intervals({name: judged for name, (_, judged) in found.items()}).items():
            intervals.setdefault(name, []).append(interval)
    differences = {name: _over_seeds(those) for name, those in intervals.items()}
    return Outcome(settings.dataset, runs, differences, shown=SHOWN)


class _Judge:
    """Trains each model and judges it by the same measure; every run goes to MLflow."""

    def __init__(self, settings: Settings, parts: Parts, told: Told, is_quick: bool, tags: Mapping[str, str]) -> None:
        self._settings, self._parts, self._told, self._is_quick, self._tags = settings, parts, told, is_quick, tags
        self._tracker = Tracker(settings)
        positives = np.nansum(parts.test.labels, axis=0)
        self.heads = tuple(head for head, count in zip(HEADS, positives, strict=True) if count >= MIN_POSITIVES)
        if RANKED not in self.heads:
            if not is_quick:
                raise InputError(f"the test days have fewer than {MIN_POSITIVES} rows with {RANKED}; give a longer log")
            self.heads = (*self.heads, RANKED)

    def multi_task(self, seed: int, trees: models.Logits) -> dict[str, tuple[SeedRun, _Judged]]:
        """The averaged networks with the trees' share, and the first network alone."""
        run = models.kuairand_run(num_networks=1 if self._is_quick else models.NUM_NETWORKS, is_quick=self._is_quick)
        started, started_at = time.perf_counter(), WallClock().now()
        computing = self._settings.num_threads, training_device(self._settings.device)
        networks = models.fit_networks(self._parts, run, seed, self._progress(MULTI, seed), *computing)
        seconds = time.perf_counter() - started
        folder = self._settings.workspace.bundles / "second_stage"
        logits, bundle_id = models.served_logits(networks, folder, self._parts)
        judged = self.judged(models.blended(self._kept(logits), trees, self.heads))
        record = RunRecord(
            kind="second_stage",
            config=asdict(run) | {"seed": seed, "is_quick": self._is_quick},
            tags={"bundle_id": bundle_id, "recipe": MULTI, **self._tags},
            metrics=finite({**judged.metrics, **cost_metrics(read_manifest(folder / bundle_id)), "seconds": seconds}),
            curves=history_curves(networks.whole.history),
            started_at=started_at,
        )
        self._tracker.record(record)
        first = self._kept((logits[0], models.first_of_averaged(networks, self._parts)))
        one = self._baseline(ONE, first, seed, seconds, started_at)
        return {MULTI: (SeedRun(judged.metrics, seconds), judged), ONE: one}

    def single_task(self, seed: int) -> tuple[SeedRun, _Judged]:
        started, started_at = time.perf_counter(), WallClock().now()
        logits = models.single_task_logits(
            self._parts,
            self.heads,
            seed,
            self._progress(SINGLE, seed),
            self._settings.num_threads,
            training_device(self._settings.device),
            is_quick=self._is_quick,
        )
        return self._baseline(SINGLE, logits, seed, time.perf_counter() - started, started_at)

    def lightgbm(self, seed: int) -> tuple[models.Logits, tuple[SeedRun, _Judged]]:
        started, started_at = time.perf_counter(), WallClock().now()
        self._told(f"{TREES}, seed {seed}", 0, 1)
        threads = self._settings.num_threads
        logits = models.lightgbm_logits(self._parts, self.heads, seed, threads, is_quick=self._is_quick)
        return logits, self._baseline(TREES, logits, seed, time.perf_counter() - started, started_at)

    def _kept(self, logits: models.Logits) -> models.Logits:
        """Those of `heads`, of all heads'."""
        kept = [HEADS.index(head) for head in self.heads]
        return logits[0][:, kept], logits[1][:, kept]

    def judged(self, logits: models.Logits) -> _Judged:
        """Ranking by the logits as they are, the rest by probabilities of each day."""
        valid, test = logits
        known, labels = self._parts.valid.labels_of(self.heads), self._parts.test.labels_of(self.heads)
        day = np.concatenate([days_of(self._parts.valid), days_of(self._parts.test)])
        first_day = int(days_of(self._parts.test).min())
        daily = recalibrated(day, np.concatenate([valid, test]), np.concatenate([known, labels]), first_day, 1)
        frozen = apply_calibrators(test, fit_calibrators(valid, known))
        users, ranked = self._parts.test.user_ids, self.heads.index(RANKED)
        views, score = labels[:, ranked], test[:, ranked]
        found = {
            "gauc": gauc(views, score, users),
            "ndcg@5": ndcg_at_k(views, score, users, 5, without_positives="zero"),
        }
        by_head = head_metrics(labels, daily, self.heads)
        found |= {name: value for name, value in by_head.items() if not name.startswith("rate_")}
        for h, head in enumerate(self.heads):
            found[f"calibration_frozen_{head}"] = calibration(labels[:, h], frozen[:, h])
        return _Judged(found, daily)

    def intervals(self, judged: Mapping[str, _Judged]) -> dict[str, Interval]:
        """Differences of PAIRS by metric, head and models."""
        labels, users = self._parts.test.labels_of(self.heads), self._parts.test.user_ids
        return {
            f"{metric}_{head}{'' if first == MULTI else ' of one network'} - {other}": interval
            for first, other in PAIRS
            for h, head in enumerate(self.heads)
            for metric, interval in compare(
                labels[:, h],
                judged[first].probabilities[:, h],
                judged[other].probabilities[:, h],
                users,
                50 if self._is_quick else 300,
            ).items()
            if metric != "gauc" or head == RANKED
        }

    def _baseline(
        self, name: str, logits: models.Logits, seed: int, seconds: float, started_at: datetime
    ) -> tuple[SeedRun, _Judged]:
        judged = self.judged(logits)
        metrics = finite({**judged.metrics, "seconds": seconds})
        self._tracker.record(
            RunRecord(
                "second_stage",
                {"model": name, "seed": seed},
                {"recipe": name, **self._tags},
                metrics,
                started_at=started_at,
            )
        )
        return SeedRun(judged.metrics, seconds), judged

    def _progress(self, what: str, seed: int) -> "_Progress":
        return _Progress(self._told, f"{what}, seed {seed}")


@dataclass(frozen=True)
class _Progress:
    told: Told
    title: str

    def __call__(self, done: int, total: int) -> None:
        self.told(self.title, done, total)


def _over_seeds(intervals: Sequence[Interval]) -> dict[str, float]:
    """The mean difference, and the widest range of any seed."""
    return {
        "difference": float(np.mean([i.difference for i in intervals])),
        "low": min(i.low for i in intervals),
        "high": max(i.high for i in intervals),
    }


def _tags(folder: Path, is_tuning: bool) -> dict[str, str]:
    files = [path for path in sorted(folder.iterdir()) if path.suffix in (".csv", ".parquet")]
    return {"data_version": content_hash([file_hash(path) for path in files], 16), "is_tuning": str(is_tuning)}
