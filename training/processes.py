"""Training in several processes (`torchrun`): each has its requests, its rows of the tables and a copy of the rest.

Every function does nothing, or gives back what it got, where one process trains alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from core.errors import ConfigError
from models.embeddings import PlainTables, table_modules
from models.sharded import ShardedTables, is_sharded, rows_of_all
from training.examples import Examples


class NotFirstError(Exception):
    """This process has done its part; what remains is for process 0."""


@contextmanager
def joined() -> Iterator[int]:
    """Joins the processes that `torchrun` started, if it did; gives this one's number."""
    if not dist.is_torchelastic_launched():
        yield 0
        return
    dist.init_process_group("gloo")
    try:
        yield dist.get_rank()
    finally:
        dist.destroy_process_group()


def require_alone(command: str) -> None:
    """Raises ConfigError where torchrun started several processes of a command that one process runs."""
    if dist.is_torchelastic_launched():
        raise ConfigError(f"{command} trains in one process; run it without torchrun (retrieval, second-stage take it)")


def number() -> int:
    """This process's, from 0."""
    return dist.get_rank() if is_sharded() else 0


def count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if is_sharded() else 1


def own_share(examples: Examples) -> Examples:
    """The rows of the requests that are this process's."""
    if not is_sharded():
        return examples
    return examples.take(np.flatnonzero(examples.users()[1] % count() == number()))


def smallest(value: int) -> int:
    """The least of all processes' values."""
    if is_sharded():
        shared = torch.tensor(value)
        dist.all_reduce(shared, dist.ReduceOp.MIN)
        return int(shared)
    return value


def counts_of_all(ids: NDArray[np.int64], counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """How often each of some distinct, ascending ids occurs in all processes, and all of anybody's counts together."""
    if not is_sharded():
        return counts, int(counts.sum())
    all_ids, all_counts = (rows_of_all(torch.from_numpy(values))[0].numpy() for values in (ids, counts))
    places = np.searchsorted(ids, all_ids).clip(max=len(ids) - 1)
    is_own = ids[places] == all_ids
    found = np.bincount(places[is_own], weights=all_counts[is_own], minlength=len(ids))
    return found.astype(np.int64), int(all_counts.sum())


def of_first(value: float) -> float:
    """Process 0's value."""
    if is_sharded():
        shared = torch.tensor(value, dtype=torch.float64)
        dist.broadcast(shared, 0)
        return float(shared)
    return value


def wait() -> None:
    """Until every process is here."""
    if is_sharded():
        dist.barrier()


def start_alike(module: nn.Module) -> None:
    """Gives every process what process 0 starts from, but for its rows of the tables."""
    if is_sharded():
        for tensor in _shared(module):
            dist.broadcast(tensor, 0)


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Puts the mean over the processes into every gradient; one that a process lacks counts as zero."""
    if not is_sharded():
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    flat /= count()
    for p, part in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
        p.grad = part.view_as(p)


def collect(module: nn.Module) -> None:
    """Makes the network whole in process 0. Raises NotFirstError in the others."""
    for place, part in table_modules(module).items():
        if isinstance(part, ShardedTables):
            weights = part.gathered()
            if number() == 0:
                whole = PlainTables(part.spec)
                whole.load_state_dict(weights)
                module.set_submodule(place, whole)
    if number() > 0:
        raise NotFirstError


@torch.no_grad()
def _shared(module: nn.Module) -> list[Tensor]:
    places = tuple(f"{place}." for place in table_modules(module))
    return [value.detach() for name, value in module.state_dict().items() if not name.startswith(places)]
