"""Trains a sequence encoder to name the next post after every entry of a history: softmax over all posts.

Legend: B rows, L entries, D width, P posts, N entries that have a next one.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from models.losses import full_softmax
from models.sequence import NextPost, SequenceConfig
from training.checkpoints import Checkpoints
from training.device import CPU, seeded
from training.loop import LoopConfig, Progress, run_training

VALID_BATCH = 2_048
LENGTH_GROUPS = 8
FIRST_PLACES = 10


@dataclass(frozen=True)
class SequenceRun:
    """Everything that decides one training."""

    network: SequenceConfig = field(default_factory=SequenceConfig)
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            batch_size=256, max_epochs=40, learning_rate=1e-3, validations_per_epoch=1, patience=3
        )
    )


@dataclass(frozen=True)
class FittedSequence:
    """The trained encoder and its history of validations."""

    module: NextPost
    history: tuple[dict[str, float], ...]


def _by_length(posts_BL: torch.Tensor) -> Iterator[torch.Tensor]:
    """The rows in a few groups alike in length, each cut to its longest: most of a batch would be padding."""
    lengths_B = (posts_BL > 0).sum(1)
    for rows in lengths_B.argsort().tensor_split(LENGTH_GROUPS):
        if len(rows) and lengths_B[rows[-1]] > 1:
            yield posts_BL[rows, : int(lengths_B[rows[-1]])]


def newest(posts_BL: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """The last `length` posts of each row, oldest first, zeros at the end."""
    counts_B = (posts_BL > 0).sum(1)
    places_BL = np.arange(length) + np.maximum(counts_B - length, 0)[:, None]
    taken = np.take_along_axis(posts_BL, np.minimum(places_BL, posts_BL.shape[1] - 1), axis=1)
    return np.where(places_BL < counts_B[:, None], taken, 0)


def fit_sequence(
    history_UL: NDArray[np.int64],
    next_U: NDArray[np.int64],
    num_posts: int,
    run: SequenceRun | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    num_threads: int = 2,
    checkpoints: Checkpoints | None = None,
    device: torch.device = CPU,
) -> FittedSequence:
    """The encoder trained on histories [U, L] of posts, oldest first, from 1 on and zeros at the end.

    `next_U` is the post after each history: the weights with the best NDCG@10 on it are kept, and training stops
    when it no longer grows.
    """
    run = run or SequenceRun()
    torch.set_num_threads(num_threads)
    lengths = run.network.length + 1, run.network.length
    inputs_UL, valid_UL = (torch.from_numpy(newest(history_UL, length)).to(device) for length in lengths)
    next_posts = torch.from_numpy(next_U).to(device)
    with seeded(seed, device):
        module = NextPost(num_posts, run.network).to(device)

        def loss_of(rows: torch.Tensor) -> torch.Tensor:
            states, wanted = [], []
            for batch_BL in _by_length(inputs_UL[rows]):
                has_next_BL = batch_BL[:, 1:] > 0
                states.append(module.states(batch_BL[:, :-1])[has_next_BL])
                wanted.append(batch_BL[:, 1:][has_next_BL])
            states_ND, posts_PD = torch.cat(states), module.post_vectors()
            every = torch.arange(len(states_ND), device=device)
            return full_softmax(states_ND, posts_PD, posts_PD.new_zeros(len(posts_PD)), every, torch.cat(wanted) - 1)

        def validate() -> dict[str, float]:
            entropy, gain = 0.0, 0.0
            for start in range(0, len(valid_UL), VALID_BATCH):
                rows = slice(start, start + VALID_BATCH)
                logits_BP = module.user_vectors(valid_UL[rows]) @ module.post_vectors().T
                wanted_B = next_posts[rows] - 1
                entropy += float(F.cross_entropy(logits_BP, wanted_B, reduction="sum"))
                places_B = (logits_BP > logits_BP.gather(1, wanted_B[:, None])).sum(1)
                gain += float(torch.where(places_B < FIRST_PLACES, 1.0 / torch.log2(places_B + 2.0), 0.0).sum())
            # The order of the first posts goes on improving long after the likelihood of the rest has turned.
            # No score is below NaN, so a network that has burst would seem to rank everything first.
            loss = 1.0 - gain / len(valid_UL) if math.isfinite(entropy) else math.nan
            return {"valid_loss": loss, "valid_cross_entropy": entropy / len(valid_UL)}

        history = run_training(
            module, run.loop, len(inputs_UL), loss_of, validate, seed, progress, checkpoints=checkpoints, device=device
        )
    return FittedSequence(module.cpu(), history)
