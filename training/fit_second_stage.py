"""Trains the second stage on in-memory examples and calibrates it on a later window.

Legend: N rows, R users (one per request), H heads.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.schema import HEADS
from models.calibration import apply_calibrators, fit_calibrators
from models.encode import EncodedSide, encode
from models.features import FeatureSpec
from models.losses import masked_bce
from models.metrics import head_metrics
from models.second_stage import SecondStage, SecondStageConfig
from training.examples import Examples
from training.loop import FittedModel, LoopConfig, Progress, run_training, spaced_rows
from training.unknown_users import as_unknown_users, forgotten_rows

VALIDATION_ROWS = 100_000
PREDICT_ROWS = 8_192


@dataclass(frozen=True)
class SecondStageRun:
    """Everything that decides one training of the second stage."""

    network: SecondStageConfig = field(default_factory=SecondStageConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    head_weights: Mapping[str, float] = field(
        default_factory=lambda: dict.fromkeys(HEADS, 1.0) | {"click": 2.0, "long_view": 2.0, "like": 2.0}
    )
    """Weight of each head's loss; they are scaled to sum to 1."""
    batches_of: Literal["requests", "rows"] = "requests"
    """Whole requests share what they have in common; rows at random have hardly two of one request in a batch."""
    unknown_user_share: float = 0.02
    """Share of the training rows that are learnt as if the user had never been met."""


@dataclass(frozen=True)
class EncodedExamples:
    """Examples as tensors, encoded once: users [R], posts [N] and crosses [N], labels [N, H] and row weights [N].

    `user_of` [N] is each post's row of the users.
    """

    user: EncodedSide
    post: EncodedSide
    cross: EncodedSide
    user_of: Tensor
    labels: Tensor
    weights: Tensor | None

    @property
    def sides(self) -> tuple[EncodedSide, EncodedSide, EncodedSide, Tensor]:
        """What the network is asked with."""
        return self.user, self.post, self.cross, self.user_of

    def take(self, rows: Tensor) -> "EncodedExamples":
        """The given rows, with each of their users once."""
        weights = None if self.weights is None else self.weights[rows]
        cross = self.cross.take(rows) if self.cross.num_rows > 1 else self.cross
        users, user_of = torch.unique(self.user_of[rows], return_inverse=True)
        return EncodedExamples(self.user.take(users), self.post.take(rows), cross, user_of, self.labels[rows], weights)


def encode_examples(spec: FeatureSpec, examples: Examples, heads: tuple[str, ...]) -> EncodedExamples:
    """The examples' tensors. Raises ValueError for a missing column or head."""
    unknown = sorted(set(heads) - set(HEADS))
    if unknown:
        raise ValueError(f"heads {', '.join(unknown)} are no labels, expected some of {', '.join(HEADS)}")
    chosen = [HEADS.index(head) for head in heads]
    users, user_of = examples.users()
    return EncodedExamples(
        encode(spec, "user", users),
        encode(spec, "post", examples.columns),
        encode(spec, "cross", examples.columns),
        torch.from_numpy(user_of),
        torch.from_numpy(np.ascontiguousarray(examples.labels[:, chosen])),
        None if examples.weights is None else torch.from_numpy(np.array(examples.weights, dtype=np.float32)),
    )


def _forget_users(encoded: EncodedExamples, spec: FeatureSpec, train: Examples, share: float, seed: int) -> None:
    """Whole requests forget whose they are: no post of theirs would know the user of the others."""
    users = forgotten_rows(encoded.user.num_rows, share, seed)
    rows = np.flatnonzero(np.isin(encoded.user_of.numpy(), users))
    unknown = as_unknown_users(train.take(rows))
    encoded.user.overwrite(encoded.user_of[rows], encode(spec, "user", unknown.columns))
    if spec.side("cross"):
        encoded.cross.overwrite(torch.from_numpy(rows), encode(spec, "cross", unknown.columns))


def rows_by_user(user_of: Tensor) -> Callable[[Tensor], Tensor]:
    """Gives the rows of some users, one user's after the other's, of `user_of` [N]."""
    order, counts = user_of.argsort(stable=True), torch.bincount(user_of)
    first = counts.cumsum(0) - counts

    def rows_of(users: Tensor) -> Tensor:
        of_batch = counts[users]
        within = torch.arange(int(of_batch.sum())) - (of_batch.cumsum(0) - of_batch).repeat_interleave(of_batch)
        return order[first[users].repeat_interleave(of_batch) + within]

    return rows_of


@torch.no_grad()
def predict_logits(module: SecondStage, encoded: EncodedExamples) -> NDArray[np.float32]:
    """Logits [N, H] in evaluation mode."""
    module.eval()
    parts = []
    for start in range(0, len(encoded.labels), PREDICT_ROWS):
        batch = encoded.take(torch.arange(start, min(start + PREDICT_ROWS, len(encoded.labels))))
        parts.append(module(*batch.sides))
    found: NDArray[np.float32] = torch.cat(parts).numpy()
    return found


def fit_second_stage(
    train: Examples,
    valid: Examples,
    calibration: Examples,
    spec: FeatureSpec,
    config: SecondStageRun | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    num_threads: int = 2,
) -> FittedModel:
    """The trained and calibrated second stage; all it learns comes before `valid` and `calibration`.

    `metrics` are those of `valid` under the calibrated model, by head (`auc_click`, ...). Same inputs,
    seed and threads give the same weights.
    """
    config = config or SecondStageRun()
    torch.set_num_threads(num_threads)
    network, spec = config.network, spec.cut(config.network.history_length)
    encoded = encode_examples(spec, train, network.heads)
    _forget_users(encoded, spec, train, config.unknown_user_share, seed)
    valid_rows = spaced_rows(valid.num_rows, VALIDATION_ROWS)
    valid_encoded = encode_examples(spec, valid.take(valid_rows), network.heads)
    weights = np.array([config.head_weights.get(head, 0.0) for head in network.heads], dtype=np.float32)
    head_weights_H = torch.from_numpy(weights / weights.sum())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = SecondStage(spec, network, is_training=True)
        # A bias at the head's log odds: rare heads then need not learn their rate first.
        rates_H = encoded.labels.nanmean(0).nan_to_num(0.5).clamp(1e-5, 1 - 1e-5)
        module.start_from(*encoded.sides, rates_H)
        rows_of = rows_by_user(encoded.user_of if config.batches_of == "requests" else torch.arange(train.num_rows))

        def loss_of(units: Tensor) -> Tensor:
            batch = encoded.take(rows_of(units))
            logits = module.each(*batch.sides)
            losses = [masked_bce(found, batch.labels, head_weights_H, batch.weights) for found in logits]
            return torch.stack(losses).mean()

        def validate() -> dict[str, float]:
            logits = torch.from_numpy(predict_logits(module, valid_encoded))
            loss = masked_bce(logits, valid_encoded.labels, head_weights_H, valid_encoded.weights)
            return {"valid_loss": float(loss)}

        num_units = encoded.user.num_rows if config.batches_of == "requests" else train.num_rows
        per_batch = max(1, round(config.loop.batch_size * num_units / max(1, train.num_rows)))
        history = run_training(module, config.loop, num_units, loss_of, validate, seed, progress, per_batch)
    later = encode_examples(spec, calibration, network.heads)
    calibrators = fit_calibrators(predict_logits(module, later), later.labels.numpy(), calibration.weights)
    probabilities = apply_calibrators(predict_logits(module, valid_encoded), calibrators)
    metrics = head_metrics(
        valid_encoded.labels.numpy(),
        probabilities,
        network.heads,
        valid.user_ids[valid_rows],
        None if valid.weights is None else valid.weights[valid_rows],
    )
    return FittedModel("second_stage", module, spec, network, network.heads, calibrators, history, metrics)
