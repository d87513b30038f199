"""What a training goes on from after its process was killed.

A checkpoint is `step-N.safetensors` (weights, optimisers, generators) and `step-N.json`, written last, with the hashes
of that file, of the one that holds the best weights so far, and of itself: without the JSON nothing was saved. The two
newest stay, so that one that turns out damaged has another before it.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from core.errors import ConfigError
from core.files import content_hash, file_hash, write_atomically
from events.lock import attempted
from models.embeddings import live_state
from training.device import CPU
from training.optimisers import Optimisers
from training.processes import NotFirstError, smallest, wait

KEPT = 2
WEIGHT, OPTIMISER, OTHER, BATCHES, GLOBAL = "weight/", "optimiser/", "other/", "random/batches", "random/global"
DEVICE = "random/device"


@dataclass
class RunState:
    """How far a training has come. `running` sums the loss of the `since` steps since the last validation."""

    step: int = 0
    running: float = 0.0
    since: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def misses(self) -> int:
        """Validations since the best one."""
        losses = [entry["valid_loss"] for entry in self.history]
        return len(losses) - 1 - losses.index(min(losses)) if losses else 0


@dataclass(frozen=True)
class Checkpoints:
    """Where and how often one training is saved. `key`: a checkpoint of another training is never taken up."""

    folder: Path
    key: str
    every_seconds: float = 60.0
    """Between checkpoints; there is one at each validation besides."""
    largest_share: float = 0.05
    """Of the time that may go into writing between validations: a large network is saved less often."""
    says: Callable[[str], None] = lambda _: None


@contextmanager
def held(checkpoints: Checkpoints) -> Iterator[None]:
    """Keeps other processes out of the folder, and empties it once the body has succeeded.

    Raises ConfigError while another process is in it.
    """
    folder = checkpoints.folder
    with attempted(folder.parent, folder.name) as is_alone:
        if not is_alone:
            raise ConfigError(
                f"the training saved in {folder} is under way in another process; wait for it, or choose another --seed"
            )
        try:
            yield
        except NotFirstError:
            wait()
            _keep_only(folder, set())
            raise
        wait()
        _keep_only(folder, set())


class SavedRun:
    """Saves one training and takes up what an earlier process left of it."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        module: nn.Module,
        optimisers: Optimisers,
        others: Mapping[str, Tensor] | None = None,
        device: torch.device = CPU,
    ) -> None:
        """`others`: further tensors to save and to fill again. `device`: where the network lies."""
        self._plan, self._module, self._optimisers, self._others = checkpoints, module, optimisers, others or {}
        self._device = device
        self._best = ""
        self._written_at, self._write_seconds = time.monotonic(), 0.0
        checkpoints.folder.mkdir(parents=True, exist_ok=True)

    def take_up(self, batches: torch.Generator, steps: int) -> RunState:
        """The state of the newest whole checkpoint, put into network, optimisers and generators; a new one for none.

        Whatever else lies in the folder is removed. `steps` are those planned, to tell of.
        """
        limit, found = math.inf, None
        while True:
            found = self._newest_whole(limit)
            step = 0 if found is None else _step(found)
            limit = smallest(step)
            if smallest(int(step == limit)):  # every process has it
                break
        _keep_only(self._plan.folder, set() if found is None else {found.stem})
        if found is None:
            return RunState()
        state = self._load(found, batches)
        self._plan.says(f"resumed at step {state.step:,} of {steps:,}")
        return state

    def is_due(self) -> bool:
        """Whether it is time for a checkpoint."""
        seconds = time.monotonic() - self._written_at
        return seconds >= max(self._plan.every_seconds, self._write_seconds / self._plan.largest_share)

    def write(self, state: RunState, batches: Tensor, is_validated: bool) -> None:
        """Saves the run as it is now. `batches`: the generator's state before it drew the coming step's epoch."""
        started = time.monotonic()
        folder, name = self._plan.folder, _name(state.step)
        tensors = {WEIGHT + n: t for n, t in live_state(self._module).items()}
        tensors |= {OPTIMISER + n: t for n, t in self._optimisers.state().items()}
        tensors |= {OTHER + n: t for n, t in self._others.items()}
        tensors = {n: t.cpu() for n, t in tensors.items()} | {BATCHES: batches, GLOBAL: torch.get_rng_state()}
        if self._device.type == "cuda":
            tensors[DEVICE] = torch.cuda.get_rng_state(self._device)
        save_file(tensors, folder / f"{name}.safetensors")  # from the tensors' own memory: tables are not doubled
        _sync(folder / f"{name}.safetensors")
        if is_validated and state.misses == 0:
            self._best = name
        files = {f"{n}.safetensors" for n in (name, self._best) if n}
        fields = {"key": self._plan.key, "best": self._best, "state": asdict(state)}
        fields["hashes"] = {file: file_hash(folder / file) for file in sorted(files)}
        write_atomically(folder / f"{name}.json", json.dumps(fields | {"own_hash": content_hash([json.dumps(fields)])}))
        _keep_only(folder, {path.stem for path in sorted(folder.glob("step-*.json"))[-KEPT:]})
        self._written_at = time.monotonic()
        self._write_seconds = self._written_at - started

    def restore_best(self) -> None:
        """Puts the best weights into the network."""
        self._load_weights(self._best)

    def _newest_whole(self, limit: float) -> Path | None:
        """The newest checkpoint up to step `limit` that is as it was written and of this training."""
        for path in sorted(self._plan.folder.glob("step-*.json"), reverse=True):
            if _step(path) > limit:
                continue
            try:
                fields = json.loads(path.read_text())
                if fields["key"] != self._plan.key:
                    self._plan.says(f"{path.name} is of a training with other settings, set or code and is removed")
                    continue
                if fields.pop("own_hash") != content_hash([json.dumps(fields)]):
                    raise ValueError("it is not what was written")
                for name, expected in fields["hashes"].items():
                    if file_hash(path.parent / name) != expected:
                        raise ValueError(f"{name} is not what was written")
            except (OSError, ValueError, KeyError, TypeError) as error:
                self._plan.says(f"{path.name} cannot be used ({error}); trying the one before it")
            else:
                return path
        return None

    def _load(self, path: Path, batches: torch.Generator) -> RunState:
        fields = json.loads(path.read_text())
        self._best = str(fields["best"])
        self._load_weights(path.stem)
        with safe_open(path.with_suffix(".safetensors"), "pt") as file:
            of_optimisers = [name for name in file.keys() if name.startswith(OPTIMISER)]  # noqa: SIM118, no mapping
            self._optimisers.load_state({n.removeprefix(OPTIMISER): file.get_tensor(n) for n in of_optimisers})
            for name, tensor in self._others.items():
                tensor.copy_(file.get_tensor(OTHER + name))
            batches.set_state(file.get_tensor(BATCHES))
            torch.set_rng_state(file.get_tensor(GLOBAL))
            if self._device.type == "cuda" and DEVICE in file.keys():  # noqa: SIM118, no mapping
                torch.cuda.set_rng_state(file.get_tensor(DEVICE), self._device)
        return RunState(**fields["state"])

    def _load_weights(self, name: str) -> None:
        with safe_open(self._plan.folder / f"{name}.safetensors", "pt") as file:
            for weight_name, weight in live_state(self._module).items():
                weight.copy_(file.get_tensor(WEIGHT + weight_name))


def _name(step: int) -> str:
    return f"step-{step:012d}"


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _keep_only(folder: Path, names: set[str]) -> None:
    """Removes every file but those of the named checkpoints, JSON first: a checkpoint never lacks what it names."""
    wanted = {f"{name}.json" for name in names}
    for name in names:
        wanted |= set(json.loads((folder / f"{name}.json").read_text())["hashes"])
    for path in sorted(folder.iterdir(), key=lambda p: p.suffix != ".json"):
        if path.name not in wanted:
            path.unlink()
