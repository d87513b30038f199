"""`python -m training benchmark beauty`: the sequence encoder on published leave-one-out sequences."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from core.clock import WallClock
from core.errors import InputError
from core.files import file_hash
from core.settings import Settings
from models.sequence import EncoderKind, NextPost, SequenceConfig
from training.device import training_device
from training.fit_sequence import SequenceRun, fit_sequence, newest
from training.loop import LoopConfig
from training.publish import history_curves
from training.published.outcome import Outcome, SeedRun, Told
from training.published.sequences import MIN_POSTS, Sequences, leave_one_out, read_sequences
from training.tracking import RunRecord, Tracker

ENCODERS: tuple[EncoderKind, ...] = ("transformer", "hstu", "pooled")


def sequence_run(kind: EncoderKind, is_quick: bool) -> SequenceRun:
    """What an encoder learns with; chosen on the validation posts."""
    loop = LoopConfig(
        batch_size=256,
        max_epochs=1 if is_quick else 40,
        learning_rate=1e-3,
        schedule="constant",
        validations_per_epoch=1,
        patience=3,
    )
    return SequenceRun(SequenceConfig(kind), loop)


def sequence_file(folder: Path) -> Path:
    """The one text file of a folder. Raises InputError unless there is exactly one."""
    files = sorted(folder.glob("*.txt"))
    if len(files) != 1:
        raise InputError(f"{folder} has {len(files)} text files; expected one with lines of `user post post ...`")
    return files[0]


def benchmark_sequences(
    settings: Settings, folder: Path, num_seeds: int, told: Told, *, is_quick: bool, is_tuning: bool
) -> Outcome:
    """Every encoder, and popularity; the first with all seeds. For tuning, the last post of each user is left alone."""
    path = sequence_file(folder)
    held = 1 if is_tuning else 0
    sequences, tracker = read_sequences(path, MIN_POSTS + held), Tracker(settings)
    runs: dict[str, list[SeedRun]] = {}
    for kind in ENCODERS:
        for seed in range(num_seeds if kind == ENCODERS[0] else 1):
            found, record = _encoder(sequences, held, sequence_run(kind, is_quick), seed, told, settings)
            runs.setdefault(kind, []).append(found)
            tracker.record(replace(record, tags={"data_version": file_hash(path)[:16], "is_tuning": str(is_tuning)}))
    runs["popularity"] = [_popularity(sequences, held)]
    return Outcome(settings.dataset, runs)


def _encoder(
    sequences: Sequences, held: int, run: SequenceRun, seed: int, told: Told, settings: Settings
) -> tuple[SeedRun, RunRecord]:
    started, started_at = time.perf_counter(), WallClock().now()
    title = f"{run.network.kind}, seed {seed}"
    fitted = fit_sequence(
        sequences.but_last(2 + held),
        sequences.last(2 + held),
        len(sequences.post_ids),
        run,
        seed,
        lambda done, total: told(title, done, total),
        settings.num_threads,
        device=training_device(settings.device),
    )
    seconds = time.perf_counter() - started
    metrics = _judged(fitted.module, sequences, held)
    size = {
        "parameters": float(sum(p.numel() for p in fitted.module.parameters())),
        "flops_per_example": float(fitted.module.encoder.flops(int(sequences.lengths.mean()))),
    }
    record = RunRecord(
        kind=f"sequence_{run.network.kind}",
        config=asdict(run) | {"seed": seed},
        tags={},
        metrics={**metrics, **size, "seconds": seconds},
        curves=history_curves(fitted.history),
        started_at=started_at,
    )
    return SeedRun(metrics, seconds), record


@torch.inference_mode()
def _judged(module: NextPost, sequences: Sequences, held: int) -> dict[str, float]:
    history = sequences.but_last(1 + held)
    inputs = torch.from_numpy(newest(history, module.config.length))
    posts_PD = module.post_vectors()

    def scores(rows: slice) -> NDArray[np.float32]:
        found: NDArray[np.float32] = (module.user_vectors(inputs[rows]) @ posts_PD.T).numpy()
        return found

    return leave_one_out(scores, history, sequences.last(1 + held))


def _popularity(sequences: Sequences, held: int) -> SeedRun:
    history = sequences.but_last(1 + held)
    counts = np.bincount(history[history > 0] - 1, minlength=len(sequences.post_ids)).astype(np.float32)
    scores: Callable[[slice], NDArray[np.float32]] = lambda rows: np.tile(counts, (len(history[rows]), 1))  # noqa: E731
    return SeedRun(leave_one_out(scores, history, sequences.last(1 + held)), 0.0)
