"""The one training loop: batches, schedule, validation, early stopping, history.

The weights of the best validation are what remains.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.bundle import BundleKind, save_bundle
from models.calibration import Calibrator
from models.features import FeatureSpec
from training import processes
from training.best_weights import BestWeights
from training.checkpoints import Checkpoints, RunState, SavedRun
from training.device import CPU, Precision, autocast, on_device
from training.optimisers import Optimisers

T = TypeVar("T")
MIXED_BLOCKS = 64
"""Blocks of neighbours whose rows are mixed; more mix better and read more of the files at once."""
PROCESS_SEED = 7_919
"""Between the seeds of processes that train together: each draws its own batches."""
Progress = Callable[[int, int], None]
"""Told (steps done, steps planned); early stopping may end before the plan."""


@dataclass(frozen=True)
class LoopConfig:
    """How a network learns."""

    batch_size: int = 4096
    max_epochs: int = 2
    learning_rate: float = 2e-3
    table_learning_rate: float = 0.01
    weight_decay: float = 1e-5
    schedule: Literal["cosine", "exponential", "constant"] = "cosine"
    warmup_share: float = 0.05
    """Share of the planned steps over which the rate rises from 0."""
    decay: float = 0.9
    """Factor per epoch of the exponential schedule."""
    validations_per_epoch: int = 2
    patience: int = 2
    """Validations without a better loss before stopping."""
    max_gradient_norm: float = 5.0
    precision: Precision = "auto"
    """Of what the loss computes; weights and validations are in float32."""


@dataclass(frozen=True)
class FittedModel:
    """A trained network with everything that its bundle holds.

    `history` has one entry per validation: step, epoch, learning_rate, train_loss, valid_loss and
    further `valid_*` metrics.
    """

    kind: BundleKind
    module: nn.Module
    spec: FeatureSpec
    network_config: Any
    heads: tuple[str, ...]
    calibrators: tuple[Calibrator, ...]
    history: tuple[dict[str, float], ...]
    metrics: dict[str, float]

    def save(
        self,
        parent: Path,
        versions: dict[str, str],
        bounds: dict[str, dict[str, Any]] | None = None,
        *,
        has_graph: bool = False,
    ) -> Path:
        """Writes the bundle below `parent` and gives its folder; the folder's name is the bundle id.

        `has_graph`: the bundle is to be served, for which its network is exported too.
        """
        bundle_id = save_bundle(
            parent,
            self.kind,
            self.module,
            self.spec,
            self.network_config,
            self.heads,
            self.calibrators,
            self.metrics,
            versions,
            bounds,
            has_graph=has_graph,
        )
        return parent / bundle_id


class Renewed(Protocol):
    """What a loss reads beside its batch, renewed between epochs."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """All of it, by name; filled in place."""

    def renew(self, epoch: int) -> None:
        """Called before the first step of each epoch, from 0 on."""


def rate_factor(config: LoopConfig, step: int, steps: int, steps_per_epoch: int) -> float:
    """What the learning rate is multiplied by at `step` (from 0) of `steps`."""
    warmup = max(1, int(config.warmup_share * steps))
    if config.schedule != "exponential" and step < warmup:
        return (step + 1) / warmup
    if config.schedule == "cosine":
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
    return config.decay ** (step // steps_per_epoch) if config.schedule == "exponential" else 1.0


def shuffled_batches(num_rows: int, batch_size: int, generator: torch.Generator, block: int = 0) -> Iterator[Tensor]:
    """Row numbers of one epoch in random order; the rest that fills no half batch is left out.

    With a `block`, rows are mixed within groups of blocks of so many neighbours, so that files are read in pieces.
    """
    order = _order_of_blocks(num_rows, block, generator) if block else torch.randperm(num_rows, generator=generator)
    for start in range(0, num_rows, batch_size):
        batch = order[start : start + batch_size]
        if len(batch) * 2 >= batch_size or num_rows < batch_size:
            yield batch


def _order_of_blocks(num_rows: int, block: int, generator: torch.Generator) -> Tensor:
    blocks = torch.randperm(-(-num_rows // block), generator=generator)
    groups = []
    for together in torch.split(blocks, MIXED_BLOCKS):
        rows = (together[:, None] * block + torch.arange(block)).flatten()
        rows = rows[rows < num_rows]
        groups.append(rows[torch.randperm(len(rows), generator=generator)])
    return torch.cat(groups)


def prepared_ahead(batches: Iterator[Tensor], prepare: Callable[[Tensor], T]) -> Iterator[T]:
    """What `prepare` makes of each batch, in order, made in the background while the one before is in use."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming: Future[T] | None = None
        for batch in batches:
            ready, coming = coming, pool.submit(prepare, batch)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()


def num_batches(num_rows: int, batch_size: int) -> int:
    """Batches that `shuffled_batches` yields."""
    whole, rest = divmod(num_rows, batch_size)
    return max(1, whole + (rest * 2 >= batch_size))


def run_training(
    module: nn.Module,
    config: LoopConfig,
    num_units: int,
    loss_of: Callable[[Any], Tensor],
    validate: Callable[[], dict[str, float]],
    seed: int,
    progress: Progress | None = None,
    units_per_batch: int | None = None,
    prepare: Callable[[Tensor], Any] = lambda units: units,
    block: int = 0,
    checkpoints: Checkpoints | None = None,
    renewed: Renewed | None = None,
    device: torch.device = CPU,
) -> tuple[dict[str, float], ...]:
    """Trains in place, restores the best weights, gives the history; in process 0 of several.

    Where several processes train together, each calls this with its own units and the same of everything else; a
    batch is shared out among them. The others end with NotFirstError.

    `loss_of` is the loss of one batch: of what `prepare`, in another thread, makes of unit numbers (rows, or
    requests), the numbers themselves unless given. `validate()` must give `valid_loss`. `block`: `shuffled_batches`.
    Uses torch's global generator only inside the caller's fork of it. With `checkpoints`, goes on where a killed
    process stopped, with the same batches; what `loss_of` and `prepare` give must then follow from their inputs, the
    weights, `renewed` and torch's global generators alone. The network lies on `device`, where what `prepare` gives is
    moved.
    """
    if num_units == 0:
        raise ValueError("no examples to train on; check the splits of the training set")
    size = max(1, (units_per_batch or config.batch_size) // processes.count())
    per_epoch = processes.smallest(num_batches(num_units, size))
    steps = per_epoch * config.max_epochs
    validate_every = max(1, per_epoch // config.validations_per_epoch)
    optimisers = Optimisers(
        module, config.learning_rate, config.table_learning_rate, config.weight_decay, config.max_gradient_norm
    )
    generator = torch.Generator().manual_seed(seed + processes.number() * PROCESS_SEED)
    processes.start_alike(module)
    others = renewed.tensors if renewed else None
    saved = None if checkpoints is None else SavedRun(checkpoints, module, optimisers, others, device)
    run = RunState() if saved is None else saved.take_up(generator, steps)
    with BestWeights(module) as best:
        while run.step < steps and run.misses < config.patience:
            epoch, at_start = run.step // per_epoch, generator.get_state()
            if renewed is not None and run.step % per_epoch == 0:
                renewed.renew(epoch)
            batches = islice(shuffled_batches(num_units, size, generator, block), run.step % per_epoch, per_epoch)
            for batch in prepared_ahead(batches, lambda units: on_device(prepare(units), device)):
                factor = rate_factor(config, run.step, steps, per_epoch)
                optimisers.set_rates(factor)
                module.train()
                with autocast(device, config.precision):
                    loss = loss_of(batch)
                optimisers.step(loss)
                run.running, run.since, run.step = run.running + float(loss.detach()), run.since + 1, run.step + 1
                if progress is not None:
                    progress(run.step, steps)
                is_validated = run.step % validate_every == 0 or run.step == steps
                if is_validated:
                    entry = {"step": float(run.step), "epoch": epoch + 1.0}
                    entry |= {"learning_rate": config.learning_rate * factor, "train_loss": run.running / run.since}
                    run.history.append(entry | _validated(module, validate))
                    run.running, run.since = 0.0, 0
                if saved is not None and (is_validated or processes.of_first(saved.is_due())):
                    saved.write(run, generator.get_state() if run.step % per_epoch == 0 else at_start, is_validated)
                elif is_validated and run.misses == 0:
                    best.keep()
                if is_validated and run.misses >= config.patience:
                    break
        if run.history:
            best.restore() if saved is None else saved.restore_best()
    processes.collect(module)
    if progress is not None:
        progress(steps, steps)
    module.eval()
    return tuple(run.history)


@torch.no_grad()
def _validated(module: nn.Module, validate: Callable[[], dict[str, float]]) -> dict[str, float]:
    module.eval()
    found = validate()
    found["valid_loss"] = processes.of_first(found["valid_loss"])  # all must stop alike
    if not math.isfinite(found["valid_loss"]):
        raise ValueError(f"validation loss is {found['valid_loss']}; lower the learning rate or look for broken labels")
    return found


def spaced_rows(num_rows: int, limit: int) -> NDArray[np.int64]:
    """At most `limit` row numbers, evenly spaced over time-ordered rows."""
    return (
        np.unique(np.linspace(0, num_rows - 1, min(num_rows, limit)).astype(np.int64))
        if num_rows
        else np.empty(0, np.int64)
    )
