"""What two ranks send each other for a batch each with the trainer's tables, rows spread over both (gloo).

Bytes are counted where they leave: row numbers, the vectors that answer, gradients. What a rank owns is not sent.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import multiprocessing

from models.features import FeatureSpec
from models.inputs import indexed_rows
from models.sharded import ShardedTables
from training.encoded_examples import EncodedExamples

NUM_RANKS = 2
REPEATS = 5
ID_BYTES, FLOAT_BYTES = 8, 4

Rows = dict[str, torch.Tensor]


def rows_of(spec: FeatureSpec, batch: EncodedExamples) -> Rows:
    """Rows of tables that a batch reads, by feature."""
    return indexed_rows(spec, "user", batch.user) | indexed_rows(spec, "post", batch.post)


def bytes_of_every_lookup(spec: FeatureSpec, rows: Rows) -> float:
    """What a rank would send and cause to be sent if each lookup went on its own, half of them to the other rank."""
    dims = {f: t.dim for t in spec.tables for f in t.features}
    each = [int((of >= 0).sum()) * (ID_BYTES + 2 * FLOAT_BYTES * dims[f]) for f, of in rows.items()]
    return sum(each) * (NUM_RANKS - 1) / NUM_RANKS


def exchange(spec: FeatureSpec, by_rank: Sequence[Rows]) -> tuple[int, float]:
    """Bytes that both ranks send each other for a batch each, and the median seconds that it takes them."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_rank, (Path(folder), spec, list(by_rank)), nprocs=NUM_RANKS)  # type: ignore[attr-defined, no-untyped-call]
        found = [np.load(Path(folder) / f"{rank}.npy") for rank in range(NUM_RANKS)]
    return int(sum(sent for sent, _ in found)), float(max(seconds for _, seconds in found))


def _rank(rank: int, folder: Path, spec: FeatureSpec, by_rank: Sequence[Rows]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=NUM_RANKS)
    tables, taken = ShardedTables(spec), []
    for _ in range(REPEATS):
        dist.barrier()
        start = time.perf_counter()
        with _counted(rank) as sent:
            vectors = tables.embed(by_rank[rank])
            torch.stack([v.sum() for v in vectors.values()]).sum().backward()  # type: ignore[no-untyped-call]
        taken.append(time.perf_counter() - start)
    np.save(folder / f"{rank}.npy", np.array([sum(sent), median(taken)]))
    dist.destroy_process_group()


@contextmanager
def _counted(rank: int) -> Iterator[list[int]]:
    """Bytes of each exchange that leave this rank for another."""
    whole, sent = dist.all_to_all_single, list[int]()

    def counting(out: torch.Tensor, own: torch.Tensor, back: Any = None, parts: Any = None) -> None:
        split = parts or [len(own) // NUM_RANKS] * NUM_RANKS
        sent.append((sum(split) - split[rank]) * own[:1].numel() * own.element_size())
        whole(out, own, back, parts)

    dist.all_to_all_single = counting  # type: ignore[assignment]
    try:
        yield sent
    finally:
        dist.all_to_all_single = whole
