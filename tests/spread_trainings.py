"""What two processes started by `torchrun` do; process 0 writes what it found to a file.

`python -m torch.distributed.run --nproc-per-node 2 -m tests.spread_trainings FILE KIND ...`. With a folder `FILE.saved`
beside it, trainings are saved there, and each process leaves its id.
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from models.embeddings import PlainTables
from models.features import Feature, FeatureSpec
from models.sharded import ShardedTables
from tests.killed_trainings import checkpoints, fitted
from training.processes import NotFirstError, joined

SPEC = FeatureSpec(
    (
        Feature("a", "post", "categorical", table="wide", num_rows=7, dim=6),
        Feature("b", "user", "sequence", table="wide", num_rows=7, dim=6, length=3),
        Feature("c", "user", "categorical", table="slim", num_rows=3, dim=4),
    )
)
ROWS = [
    {"a": torch.tensor([[0], [6], [3]]), "b": torch.tensor([[1, -1, -1], [6, 6, 2], [-1, -1, -1]])},
    {"c": torch.tensor([[2], [2]]), "b": torch.tensor([[5, 4, -1], [0, -1, -1]]), "a": torch.tensor([[6], [1]])},
]
"""Of each process. Process 0 reads nothing of the table `slim`."""
RATE = 0.5


def loss_of(vectors: dict[str, torch.Tensor]) -> torch.Tensor:
    return sum(((i + 1) * v).square().sum() for i, v in enumerate(vectors.values()))  # type: ignore[return-value]


def whole(tables: ShardedTables) -> PlainTables:
    """The gathered tables, in every process."""
    found = PlainTables(SPEC)
    gathered = tables.gathered()
    if gathered:
        found.load_state_dict(gathered)
    for weight in found.parameters():
        dist.broadcast(weight.detach(), 0)
    return found


def updated(how: str) -> dict[str, float]:
    """Largest differences of lookup and of one update from row-wise Adagrad on whole tables, worked out here."""
    torch.manual_seed(0)
    tables = ShardedTables(SPEC)
    before, rows = whole(tables), ROWS[dist.get_rank()]
    tables.set_learning_rate(RATE)
    found, expected = getattr(tables, how)(rows), getattr(before, how)(rows)
    assert list(found) == list(expected), "towers join vectors in this order"
    lookup = max(float((found[name] - expected[name]).abs().max()) for name in rows)
    loss_of(found).backward()
    after = whole(tables)
    (sum(loss_of(getattr(before, how)(r)) for r in ROWS) / 2).backward()
    update = 0.0
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        padded = 8 if "wide" in name else 4  # the kernel's mean runs over its own width
        sums = old.grad.square().sum(1, keepdim=True) / padded
        update = max(update, float((old - RATE * old.grad / (sums.sqrt() + 1e-8) - new).detach().abs().max()))
    return {"lookup": lookup, "update": update}


def main() -> None:
    found: dict[str, object] = {}
    with joined() as number:
        saved = Path(f"{sys.argv[1]}.saved")
        if saved.is_dir():
            (saved / f"{number}.pid").write_text(str(os.getpid()))
        for how in ("embed", "pool"):
            found[how] = updated(how)
        for kind in sys.argv[2:]:
            try:
                plan = checkpoints(saved / f"{kind}-{number}", lambda line: print(line, flush=True))
                found[kind] = fitted(kind, plan if saved.is_dir() else None).metrics
            except NotFirstError:
                continue
        if number == 0:
            Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
