"""Trains the second stage and calibrates it on a later window.

Legend: N rows, H heads.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.schema import HEADS
from models.bins import EDGE_ROWS
from models.calibration import apply_calibrators, fit_calibrators
from models.embeddings import start_tables
from models.features import FeatureSpec
from models.metrics import head_metrics
from models.second_stage import SecondStage, SecondStageConfig
from training import processes
from training.checkpoints import Checkpoints
from training.device import CPU, on_device, seeded
from training.encoded_examples import (
    EncodedExamples,
    StoredExamples,
    encode_examples,
    forget_users,
    rows_by_user,
)
from training.examples import Examples
from training.head_losses import HeadLoss
from training.loop import FittedModel, LoopConfig, Progress, run_training, spaced_rows
from training.unknown_users import forgotten_rows

VALIDATION_ROWS = 100_000
PREDICT_ROWS = 8_192
BLOCK_UNITS = 256
"""Requests (or rows) that are read together from files; a batch mixes those of many blocks."""
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
    batches_of: Literal["requests", "rows"] = "requests"
    """Whole requests share what they have in common; rows at random have hardly two of one request in a batch."""
    in_memory_rows: int = 2_000_000
    """Above this, batches are encoded from the set's files while the one before is learnt from."""
    positive_weights: Mapping[str, float] = field(default_factory=dict)
    """How often a positive of a rare head counts; what that adds to the logits is taken out after training."""
    unknown_user_share: float = 0.02
    """Share of the training rows that are learnt as if the user had never been met."""


@torch.no_grad()
def predict_logits(
    module: SecondStage, encoded: EncodedExamples | StoredExamples, device: torch.device = CPU
) -> NDArray[np.float32]:
    """Logits [N, H] in evaluation mode of a network that lies on `device`."""
    module.eval()
    parts = []
    for start in range(0, len(encoded.user_of), PREDICT_ROWS):
        rows = torch.arange(start, min(start + PREDICT_ROWS, len(encoded.user_of)))
        parts.append(module(*on_device(encoded.take(rows), device).sides).cpu())
    found: NDArray[np.float32] = torch.cat(parts).numpy()
    return found


def _encoded(
    spec: FeatureSpec, train: Examples, config: SecondStageRun, seed: int
) -> tuple[EncodedExamples | StoredExamples, int]:
    """The rows to learn from, some users forgotten, and how many units lie in a block that is read together."""
    users, _ = train.users()
    num_users = len(next(iter(users.values()), ()))
    forgotten = forgotten_rows(num_users, config.unknown_user_share, seed)
    if train.num_rows > config.in_memory_rows:
        return StoredExamples(spec, train, config.network.heads, forgotten), BLOCK_UNITS
    encoded = encode_examples(spec, train, config.network.heads)
    forget_users(encoded, spec, train, forgotten)
    return encoded, 0


def _fit_spread(
    module: SecondStage, encoded: EncodedExamples | StoredExamples, num_rows: int, num_processes: int
) -> None:
    rows = torch.from_numpy(spaced_rows(num_rows, SPREAD_ROWS))
    sample = (encoded.take(few) for few in torch.split(rows, PREDICT_ROWS))
    # The other processes have learnt from as many rows again.
    scale = max(1.0, num_rows / SPREAD_ROWS) * num_processes
    module.fit_spread(((few.sides, few.labels) for few in sample), scale)


def fit_second_stage(
    train: Examples,
    valid: Examples,
    calibration: Examples,
    spec: FeatureSpec,
    config: SecondStageRun | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    num_threads: int = 2,
    checkpoints: Checkpoints | None = None,
    tables: Mapping[str, Tensor] | None = None,
    device: torch.device = CPU,
) -> FittedModel:
    """The trained and calibrated second stage; all it learns comes before `valid` and `calibration`.

    `metrics` are those of `valid` under the calibrated model, by head (`auc_click`, ...). Same inputs,
    seed and threads give the same weights. `tables` are weights that tables of their name and shape start from.
    """
    config = config or SecondStageRun()
    torch.set_num_threads(num_threads)
    network, spec = config.network, spec.cut(config.network.history_length)
    encoded, block = _encoded(spec, train, config, seed)
    valid_rows = spaced_rows(valid.num_rows, VALIDATION_ROWS)
    valid_encoded = encode_examples(spec, valid.take(valid_rows), network.heads)
    head_loss = HeadLoss(network.heads, config.head_weights, config.positive_weights)
    with seeded(seed, device):
        module = SecondStage(spec, network, is_training=True)
        start_tables(module, tables or {})
        # A bias at the head's log odds: rare heads then need not learn their rate first.
        few = torch.arange(0, train.num_rows, max(1, train.num_rows // EDGE_ROWS))
        start_H = head_loss.start(torch.from_numpy(train.labels_of(network.heads)))
        module.start_from(*encoded.take(few).sides, start_H)
        units = encoded.user_of if config.batches_of == "requests" else torch.arange(train.num_rows)
        rows_of, num_units = rows_by_user(units), int(units.max()) + 1 if len(units) else 0

        def loss_of(batch: EncodedExamples) -> Tensor:
            logits = module.each(*batch.sides)
            losses = [head_loss(found, batch.labels, batch.weights) for found in logits]
            return torch.stack(losses).mean()

        def validate() -> dict[str, float]:
            logits = torch.from_numpy(predict_logits(module, valid_encoded, device))
            return {"valid_loss": float(head_loss.held_out(logits, valid_encoded.labels, valid_encoded.weights))}

        per_batch = max(1, round(config.loop.batch_size * num_units / max(1, train.num_rows)))
        history = run_training(
            module.to(device),
            config.loop,
            num_units,
            loss_of,
            validate,
            seed,
            progress,
            per_batch,
            lambda drawn: encoded.take(rows_of(drawn)),
            block,
            checkpoints,
            device=device,
        )
    module.cpu()
    module.shift(head_loss.correction)
    _fit_spread(module, encoded, train.num_rows, processes.count())
    later = StoredExamples(spec, calibration, network.heads)
    calibrators = fit_calibrators(
        predict_logits(module, later), calibration.labels_of(network.heads), calibration.weights
    )
    probabilities = apply_calibrators(predict_logits(module, valid_encoded), calibrators)
    metrics = head_metrics(
        valid_encoded.labels.numpy(),
        probabilities,
        network.heads,
        valid.user_ids[valid_rows],
        None if valid.weights is None else valid.weights[valid_rows],
    )
    return FittedModel("second_stage", module, spec, network, network.heads, calibrators, history, metrics)
