"""What is compared on KuaiRand: the multi-task second stage, a network per head, LightGBM per head.

Each gives logits of the validation day and of the test days; what becomes of them is the same for all.
Legend: N rows, H heads.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.features import fit_spec
from models.second_stage import SecondStageConfig
from training.baselines import LightGbmConfig, fit_lightgbm
from training.fit_second_stage import SecondStageRun, fit_second_stage
from training.loop import FittedModel, LoopConfig, Progress
from training.published.kuairand_features import HISTORY_LENGTH
from training.published.kuairand_log import HEADS
from training.published.kuairand_parts import Parts
from training.published.kuairand_spec import tree_columns
from training.train import load_second_stage, predict_logits

Logits = tuple[NDArray[Any], NDArray[Any]]
"""Of the validation day and of the test days, [N, H] each."""


HEAD_WEIGHTS = {"long_view": 2.0, "click": 0.25, "profile_enter": 0.25, "like": 0.15}
POSITIVE_WEIGHTS = {"click": 1.0, "long_view": 1.0, "like": 5.0, "profile_enter": 20.0}
RARE_WEIGHT, RARE_POSITIVES = 0.02, 50.0
"""Of the heads not named above, of which the training days have a hundred positives or so."""


def kuairand_run(heads: tuple[str, ...] = HEADS, *, is_quick: bool = False) -> SecondStageRun:
    """How the network learns; chosen on 04-27..28. One epoch: in a second, vectors of ids learn rows by heart.

    Each head of weight has experts of its own and the rarest share theirs, or what profile visits need costs long
    views.
    """
    own = list(HEAD_WEIGHTS)
    return SecondStageRun(
        SecondStageConfig(
            heads=heads,
            trunk=(128, 64),
            trunk_kind="ple" if len(heads) > 1 else "shared",
            num_experts=2,
            head_groups=tuple(own.index(head) if head in own else len(own) for head in heads),
            dropout=0.2,
            history_length=HISTORY_LENGTH,
        ),
        LoopConfig(batch_size=256 if is_quick else 1024, max_epochs=1, learning_rate=1e-3, validations_per_epoch=1),
        head_weights={head: HEAD_WEIGHTS.get(head, RARE_WEIGHT) for head in heads},
        positive_weights={head: POSITIVE_WEIGHTS.get(head, RARE_POSITIVES) for head in heads},
        unknown_user_share=0.0,
    )


def fit_network(
    parts: Parts, run: SecondStageRun, seed: int, progress: Progress, num_threads: int, device: torch.device
) -> FittedModel:
    """The second stage by the trainer that production uses."""
    spec = fit_spec(parts.features, parts.train.columns)
    return fit_second_stage(
        parts.train, parts.valid, parts.valid, spec, run, seed, progress, num_threads, device=device
    )


def served_logits(fitted: FittedModel, folder: Path, parts: Parts) -> tuple[Logits, str]:
    """What the bundle answers once written and read back, and its id."""
    path = fitted.save(folder, {})
    bundle = load_second_stage(path)
    return (predict_logits(bundle, parts.valid.columns), predict_logits(bundle, parts.test.columns)), bundle.bundle_id


def single_task_logits(
    parts: Parts,
    heads: Sequence[str],
    seed: int,
    progress: Progress,
    num_threads: int,
    device: torch.device,
    *,
    is_quick: bool,
) -> Logits:
    """The same network trained for one head alone, for each of `heads`."""
    found = []
    for head in heads:
        fitted = fit_network(parts, kuairand_run((head,), is_quick=is_quick), seed, progress, num_threads, device)
        with tempfile.TemporaryDirectory() as folder:
            found.append(served_logits(fitted, Path(folder), parts)[0])
    return np.hstack([valid for valid, _ in found]), np.hstack([test for _, test in found])


def lightgbm_logits(parts: Parts, heads: Sequence[str], seed: int, num_threads: int, *, is_quick: bool) -> Logits:
    """LightGBM for each of `heads` on the same rows and columns, with early stopping on the validation day."""
    config = LightGbmConfig(
        num_leaves=31,
        min_data_in_leaf=100,
        max_rounds=60 if is_quick else 600,
        is_weighted=True,
        num_threads=num_threads,
        seed=seed,
    )
    names = tree_columns(parts.train.columns)
    models = [fit_lightgbm(parts.train, parts.valid, HEADS.index(head), names, config) for head in heads]
    valid, test = (
        np.stack([_logit(model.probabilities(part.columns)) for model in models], axis=1)
        for part in (parts.valid, parts.test)
    )
    return valid, test


def _logit(p: NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = np.clip(p, 1e-6, 1 - 1e-6)
    logits: NDArray[np.float64] = np.log(clipped) - np.log1p(-clipped)
    return logits
