"""Trains the second stage on in-memory examples and calibrates it on a later window.

Legend: N rows, H heads.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.schema import HEADS
from models.calibration import apply_calibrators, fit_calibrators
from models.encode import EncodedSide, encode
from models.features import FeatureSpec
from models.metrics import head_metrics
from models.second_stage import SecondStage, SecondStageConfig
from training.examples import Examples
from training.head_losses import HeadLoss
from training.loop import FittedModel, LoopConfig, Progress, run_training, spaced_rows
from training.unknown_users import as_unknown_users, forgotten_rows

VALIDATION_ROWS = 100_000
PREDICT_ROWS = 8_192
SPREAD_ROWS = 50_000
"""Training rows that tell how sure the last layers are."""


@dataclass(frozen=True)
class SecondStageRun:
    """Everything that decides one training of the second stage."""

    network: SecondStageConfig = field(default_factory=SecondStageConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    head_weights: Mapping[str, float] = field(
        default_factory=lambda: dict.fromkeys(HEADS, 1.0) | {"click": 2.0, "long_view": 2.0, "like": 2.0}
    )
    """Weight of each head's loss; they are scaled to sum to 1."""
    positive_weights: Mapping[str, float] = field(default_factory=dict)
    """How often a positive of a rare head counts; what that adds to the logits is taken out after training."""
    unknown_user_share: float = 0.02
    """Share of the training rows that are learnt as if the user had never been met."""


@dataclass(frozen=True)
class EncodedExamples:
    """Examples as tensors, encoded once: three sides, labels [N, H] and row weights [N]."""

    user: EncodedSide
    post: EncodedSide
    cross: EncodedSide
    labels: Tensor
    weights: Tensor | None

    def take(self, rows: Tensor) -> "EncodedExamples":
        weights = None if self.weights is None else self.weights[rows]
        cross = self.cross.take(rows) if self.cross.num_rows > 1 else self.cross
        return EncodedExamples(self.user.take(rows), self.post.take(rows), cross, self.labels[rows], weights)


def encode_examples(spec: FeatureSpec, examples: Examples, heads: tuple[str, ...]) -> EncodedExamples:
    """The examples' tensors. Raises ValueError for a missing column or head."""
    labels = torch.from_numpy(examples.labels_of(heads))
    return EncodedExamples(
        encode(spec, "user", examples.columns),
        encode(spec, "post", examples.columns),
        encode(spec, "cross", examples.columns),
        labels,
        None if examples.weights is None else torch.from_numpy(np.array(examples.weights, dtype=np.float32)),
    )


def _forget_users(encoded: EncodedExamples, spec: FeatureSpec, train: Examples, share: float, seed: int) -> None:
    rows = forgotten_rows(train.num_rows, share, seed)
    unknown = as_unknown_users(train.take(rows))
    encoded.user.overwrite(torch.from_numpy(rows), encode(spec, "user", unknown.columns))
    if spec.side("cross"):
        encoded.cross.overwrite(torch.from_numpy(rows), encode(spec, "cross", unknown.columns))


@torch.no_grad()
def predict_logits(module: SecondStage, encoded: EncodedExamples) -> NDArray[np.float32]:
    """Logits [N, H] in evaluation mode."""
    module.eval()
    parts = []
    for start in range(0, len(encoded.labels), PREDICT_ROWS):
        batch = encoded.take(torch.arange(start, min(start + PREDICT_ROWS, len(encoded.labels))))
        parts.append(module(batch.user, batch.post, batch.cross))
    found: NDArray[np.float32] = torch.cat(parts).numpy()
    return found


def _fit_spread(module: SecondStage, encoded: EncodedExamples) -> None:
    num_rows = len(encoded.labels)
    rows = torch.from_numpy(spaced_rows(num_rows, SPREAD_ROWS))
    sample = (encoded.take(rows[start : start + PREDICT_ROWS]) for start in range(0, len(rows), PREDICT_ROWS))
    module.fit_spread((((b.user, b.post, b.cross), b.labels) for b in sample), max(1.0, num_rows / SPREAD_ROWS))


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
    head_loss = HeadLoss(network.heads, config.head_weights, config.positive_weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = SecondStage(spec, network, is_training=True)
        # A bias at the head's log odds: rare heads then need not learn their rate first.
        module.start_from(encoded.user, encoded.post, encoded.cross, head_loss.start(encoded.labels))

        def loss_of(rows: Tensor) -> Tensor:
            batch = encoded.take(rows)
            logits = module.each(batch.user, batch.post, batch.cross)
            losses = [head_loss(found, batch.labels, batch.weights) for found in logits]
            return torch.stack(losses).mean()

        def validate() -> dict[str, float]:
            logits = torch.from_numpy(predict_logits(module, valid_encoded))
            return {"valid_loss": float(head_loss.held_out(logits, valid_encoded.labels, valid_encoded.weights))}

        history = run_training(module, config.loop, train.num_rows, loss_of, validate, seed, progress)
    module.shift(head_loss.correction)
    _fit_spread(module, encoded)
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
