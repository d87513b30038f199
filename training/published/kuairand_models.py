"""What is compared on KuaiRand: the multi-task second stage, a network per head, LightGBM per head.

Each gives logits of the validation day and of the test days; what becomes of them is the same for all.
Legend: N rows, H heads.
"""

import tempfile
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.features import fit_spec
from models.second_stage import SecondStage, SecondStageConfig
from training import fit_second_stage as fit
from training.baselines import LightGbmConfig, fit_lightgbm
from training.encoded_examples import encode_examples
from training.examples import Examples
from training.fit_second_stage import SecondStageRun, fit_second_stage
from training.loop import FittedModel, LoopConfig, Progress
from training.published.kuairand_features import HISTORY_LENGTH
from training.published.kuairand_log import HEADS
from training.published.kuairand_parts import Parts, without_older
from training.published.kuairand_spec import tree_columns
from training.train import load_second_stage, predict_logits

Logits = tuple[NDArray[Any], NDArray[Any]]
"""Of the validation day and of the test days, [N, H] each."""


HEAD_WEIGHTS = {"long_view": 2.0, "click": 0.25, "profile_enter": 0.25, "like": 0.15}
POSITIVE_WEIGHTS = {"click": 1.0, "long_view": 1.0, "like": 5.0, "profile_enter": 5.0}
RARE_WEIGHT, RARE_POSITIVES = 0.02, 50.0
"""Of the heads not named above, of which the training days have a hundred positives or so."""


NUM_NETWORKS = 3
"""Averaged in the multi-task model."""
BLENDED = "profile_enter"
"""The head whose logits are averaged with LightGBM's: only dated rows tell of it, nine hundred positives in all."""


def kuairand_run(heads: tuple[str, ...] = HEADS, num_networks: int = 1, *, is_quick: bool = False) -> SecondStageRun:
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
            num_networks=num_networks,
            history_length=HISTORY_LENGTH,
        ),
        LoopConfig(batch_size=256 if is_quick else 1024, max_epochs=1, learning_rate=1e-3, validations_per_epoch=1),
        head_weights={head: HEAD_WEIGHTS.get(head, RARE_WEIGHT) for head in heads},
        positive_weights={head: POSITIVE_WEIGHTS.get(head, RARE_POSITIVES) for head in heads},
        unknown_user_share=0.0,
    )


@dataclass(frozen=True)
class Networks:
    """Of one run config: `first` learnt from `train` and was calibrated on `valid`, `whole` learnt from both.

    `first` is one network however many `whole` averages: what calibrates need not be averaged.
    """

    first: FittedModel
    whole: FittedModel


def fit_networks(
    parts: Parts, run: SecondStageRun, seed: int, progress: Progress, num_threads: int, device: torch.device
) -> Networks:
    """The second stage by the trainer that production uses, twice; the second has the calibrators of the first."""
    one = replace(run, network=replace(run.network, num_networks=1))
    first, whole = (
        fit_second_stage(
            rows,
            parts.valid,
            parts.valid,
            fit_spec(parts.features, rows.columns),
            config,
            seed,
            progress,
            num_threads,
            device=device,
        )
        for rows, config in ((parts.train, one), (parts.whole, run))
    )
    return Networks(first, replace(whole, calibrators=first.calibrators))


def served_logits(networks: Networks, folder: Path, parts: Parts) -> tuple[Logits, str]:
    """What both bundles answer once written and read back, and the id of the one that the test judges."""
    first, whole = (load_second_stage(fitted.save(folder, {})) for fitted in (networks.first, networks.whole))
    return (predict_logits(first, parts.valid.columns), predict_logits(whole, parts.test.columns)), whole.bundle_id


def first_of_averaged(networks: Networks, parts: Parts) -> NDArray[Any]:
    """Logits of the test days by the first of the averaged networks alone."""
    every = cast(SecondStage, networks.whole.module)
    module = copy(every)
    module._modules = {"networks": nn.ModuleList(list(every.networks)[:1])}
    return fit.predict_logits(module, encode_examples(networks.whole.spec, parts.test, HEADS))


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
    """The same network trained for one head alone, for each of `heads`, on the rows that know its label.

    Batches shrink with the rows, so that there are as many steps of as many labels as in the multi-task network.
    """
    found = []
    for head in heads:
        run = kuairand_run((head,), is_quick=is_quick)
        is_known = np.isfinite(parts.train.labels[:, HEADS.index(head)])
        batch = max(16, round(run.loop.batch_size * float(is_known.mean())))
        known = replace(parts, train=_knowing(parts.train, head), whole=_knowing(parts.whole, head))
        run = replace(run, loop=replace(run.loop, batch_size=batch))
        networks = fit_networks(known, run, seed, progress, num_threads, device)
        with tempfile.TemporaryDirectory() as folder:
            found.append(served_logits(networks, Path(folder), parts)[0])
    return np.hstack([valid for valid, _ in found]), np.hstack([test for _, test in found])


def _knowing(rows: Examples, head: str) -> Examples:
    return rows.take(np.flatnonzero(np.isfinite(rows.labels[:, HEADS.index(head)])))


def lightgbm_logits(parts: Parts, heads: Sequence[str], seed: int, num_threads: int, *, is_quick: bool) -> Logits:
    """LightGBM for each of `heads` on the same columns, and the rows with which it does best.

    Early stopping on the validation day says how many trees the models that learn from it too have.
    """
    config = LightGbmConfig(
        num_leaves=31,
        min_data_in_leaf=100,
        max_rounds=60 if is_quick else 600,
        is_weighted=True,
        num_threads=num_threads,
        seed=seed,
    )
    names = tree_columns(parts.train.columns)
    train, both = without_older(parts.train), without_older(parts.whole)
    found = []
    for head in map(HEADS.index, heads):
        first = fit_lightgbm(train, parts.valid, head, names, config)
        whole = fit_lightgbm(both, None, head, names, replace(config, max_rounds=first.num_trees))
        pairs = ((first, parts.valid), (whole, parts.test))
        found.append([_logit(model.probabilities(part.columns)) for model, part in pairs])
    return np.stack([valid for valid, _ in found], axis=1), np.stack([test for _, test in found], axis=1)


def blended(logits: Logits, trees: Logits, heads: Sequence[str]) -> Logits:
    """`logits` of `heads` with the trees' share of BLENDED."""
    shares = np.array([0.5 if head == BLENDED else 0.0 for head in heads])
    valid, test = ((1 - shares) * own + shares * other for own, other in zip(logits, trees, strict=True))
    return valid, test


def _logit(p: NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = np.clip(p, 1e-6, 1 - 1e-6)
    logits: NDArray[np.float64] = np.log(clipped) - np.log1p(-clipped)
    return logits
