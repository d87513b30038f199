"""What two ranks send each other for one batch each, tables sharded by rows: ids, vectors and gradients, over gloo.

Each lookup's id goes to the rank that owns its row, the vector comes back, its gradient goes there. What a rank owns
itself is not sent. Padding is never looked up across ranks.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.distributed as dist
from torch import multiprocessing

from models.features import FeatureSpec
from models.inputs import indexed_rows
from training.encoded_examples import EncodedExamples

NUM_RANKS = 2
REPEATS = 5
ID_BYTES, FLOAT_BYTES = 8, 4

Lookups = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Shape:
    """Rows and width of one table."""

    num_rows: int
    dim: int


def lookups(spec: FeatureSpec, batch: EncodedExamples) -> dict[str, torch.Tensor]:
    """Rows that a batch reads of each table, repeated as often as they are read."""
    rows = indexed_rows(spec, "user", batch.user) | indexed_rows(spec, "post", batch.post)
    read = {t.name: torch.cat([rows[f].flatten() for f in t.features]).long() for t in spec.tables}
    return {name: rows_M[rows_M >= 0] for name, rows_M in read.items()}


def exchange(spec: FeatureSpec, by_rank: Sequence[Lookups]) -> tuple[int, float]:
    """Bytes that both ranks send each other for a batch each, and the median seconds that it takes them."""
    shapes = {t.name: Shape(t.num_rows, t.dim) for t in spec.tables}
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_rank, (Path(folder), shapes, list(by_rank)), nprocs=NUM_RANKS)  # type: ignore[attr-defined, no-untyped-call]
        found = [np.load(Path(folder) / f"{rank}.npy") for rank in range(NUM_RANKS)]
    return int(sum(sent for sent, _ in found)), float(max(seconds for _, seconds in found))


def _rank(rank: int, folder: Path, shapes: Mapping[str, Shape], by_rank: Sequence[Lookups]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=NUM_RANKS)
    shards = {name: torch.randn(-(-s.num_rows // NUM_RANKS), s.dim) for name, s in shapes.items()}
    taken = []
    for _ in range(REPEATS):
        dist.barrier()
        start = time.perf_counter()
        sent = sum(_exchange_table(rank, rows, shards[name]) for name, rows in by_rank[rank].items())
        taken.append(time.perf_counter() - start)
    np.save(folder / f"{rank}.npy", np.array([sent, median(taken)]))
    dist.destroy_process_group()


def _exchange_table(rank: int, rows_M: torch.Tensor, shard: torch.Tensor) -> int:
    """Bytes that this rank sends to the others for one table: ids, the vectors they ask for, gradients."""
    owner_M = rows_M.div(len(shard), rounding_mode="floor")
    order = owner_M.argsort(stable=True)
    out = torch.bincount(owner_M, minlength=NUM_RANKS)
    into = torch.empty_like(out)
    dist.all_to_all_single(into, out)
    to, of = out.tolist(), into.tolist()
    asked = torch.empty(sum(of), dtype=torch.int64)
    dist.all_to_all_single(asked, rows_M[order], of, to)
    vectors = torch.empty(len(rows_M), shard.shape[1])
    dist.all_to_all_single(vectors, shard[asked - rank * len(shard)], to, of)
    gradients = torch.empty(len(asked), shard.shape[1])
    dist.all_to_all_single(gradients, vectors, of, to)
    vector_bytes = FLOAT_BYTES * shard.shape[1]
    foreign = [r for r in range(NUM_RANKS) if r != rank]
    return sum(to[r] * (ID_BYTES + vector_bytes) + of[r] * vector_bytes for r in foreign)
