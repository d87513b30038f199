"""One way of keeping ids in a table, learnt along the stream and judged on what comes after; a process of its own.

python -m benchmarks.hash_tables_run '{"hashing": "plain", ...}'      prints one JSON object
"""

import json
import resource
import sys
import time
import warnings
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.hash_tables_stream import FEATURES, Stream
from models.fused import FusedTable
from models.id_rows import Hashing, IdRows, rows_of_table
from models.metrics import auc
from models.multi_hash import HASHES, rows_of_hashes
from models.own_rows import Eviction, RowOwners, no_owners
from models.rare_ids import CountSketch
from training.sampling import repeats

DIM = 16
CHUNK = 1 << 18
BATCH = 8_192
TEST_CHUNKS = 4
TABLE = "entity"


@dataclass(frozen=True)
class Way:
    """One run."""

    hashing: Hashing
    num_ids: int
    num_rows: int
    num_chunks: int
    min_count: int = 1
    at_least: int = 1
    """Rows of ids met less often are repeated (`training/sampling.py`)."""
    most: int = 4
    num_shared: int = 1
    eviction: Eviction = "lru"
    life: int = 24
    learning_rate: float = 0.05
    is_half: bool = False
    seed: int = 0


class Learner:
    """A table of ids, 16 wide, and a small network that reads a row beside the known features."""

    def __init__(self, way: Way) -> None:
        self.way = way
        torch.manual_seed(way.seed)
        self.table = FusedTable(TABLE, way.num_rows, DIM, is_half=way.is_half)
        self.table.set_learning_rate(way.learning_rate)
        self.network = nn.Sequential(nn.Linear(DIM + len(FEATURES), 32), nn.ReLU(), nn.Linear(32, 1))
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=2e-3)
        counts = way.min_count > 1 or way.at_least > 1
        self.sketch = CountSketch.sized_for(min(way.num_ids, way.num_chunks * CHUNK)) if counts else None
        owned = way.hashing == "zero_collision"
        self.owners = RowOwners(no_owners(way.num_rows - 1 - way.num_shared), way.eviction) if owned else None
        self.num_evicted = 0

    def meet(self, ids_N: NDArray[np.int64], step: int) -> None:
        """Counts the ids of a chunk and gives rows to newcomers."""
        if self.sketch is None and self.owners is None:
            return
        ids, counts = np.unique(ids_N, return_counts=True)
        if self.sketch is not None:
            self.sketch.add(ids, counts)
        if self.owners is not None:
            before = int((self.owners.owners >= 0).sum()) if self.way.num_rows < 10_000_000 else 0
            frequent = None if self.way.min_count == 1 else self.sketch.counts(ids) >= self.way.min_count  # type: ignore[union-attr]
            changed = self.owners.admit(ids, counts, step, frequent)
            self.table.start_anew(torch.from_numpy(changed + 1 + self.way.num_shared))
            if before:
                self.num_evicted += before + len(changed) - int((self.owners.owners >= 0).sum())

    def rows(self, ids_N: NDArray[np.int64]) -> Tensor:
        w = self.way
        known = IdRows(None if self.owners is None else self.owners.owners, self.sketch)
        rows = rows_of_table(ids_N, TABLE, w.num_rows, w.hashing, w.min_count, w.num_shared, known)
        return torch.from_numpy(rows)

    def logits(self, rows_B: Tensor, features_BF: Tensor) -> Tensor:
        if self.way.hashing == "multi":
            spread = rows_of_hashes(rows_B[:, None], self.way.num_rows, self.way.num_shared).flatten()
            vectors = self.table(spread).view(-1, HASHES, DIM).mean(1)
        else:
            vectors = self.table(rows_B)
        found: Tensor = self.network(torch.cat([vectors, features_BF], dim=1)).squeeze(1)
        return found

    def learn(self, rows_N: Tensor, features_NF: Tensor, labels_N: Tensor, weights_N: Tensor | None) -> None:
        order = torch.randperm(len(rows_N))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            weights = None if weights_N is None else weights_N[batch]
            loss = F.binary_cross_entropy_with_logits(
                self.logits(rows_N[batch], features_NF[batch]), labels_N[batch], weights
            )
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()


def run(way: Way) -> dict[str, object]:
    stream = Stream(way.num_ids, way.life, way.seed)
    learner, started, drawn = Learner(way), time.process_time(), 0.0
    for at in range(way.num_chunks):
        before = time.process_time()
        chunk = stream.chunk(at, CHUNK)
        drawn += time.process_time() - before
        learner.meet(chunk.ids, at + 1)
        rows, features, labels = learner.rows(chunk.ids), *map(torch.from_numpy, (chunk.features, chunk.labels))
        weights = None
        if way.at_least > 1:
            assert learner.sketch is not None
            times = torch.from_numpy(repeats(learner.sketch.counts(chunk.ids), way.at_least, way.most))
            rows, features, labels = (part.repeat_interleave(times, dim=0) for part in (rows, features, labels))
            weights = (1.0 / times).float().repeat_interleave(times)
        learner.learn(rows, features, labels, weights)
    seconds = time.process_time() - started - drawn
    found: dict[str, list[NDArray[np.float32]]] = {"labels": [], "model": [], "oracle": [], "features": []}
    with torch.no_grad():
        for at in range(way.num_chunks, way.num_chunks + TEST_CHUNKS):
            chunk = stream.chunk(at, CHUNK)
            logits = learner.logits(learner.rows(chunk.ids), torch.from_numpy(chunk.features))
            parts = chunk.labels, logits.numpy(), chunk.logits, chunk.logits_of_features
            for name, values in zip(found, parts, strict=True):
                found[name].append(values)
    labels_N = np.concatenate(found.pop("labels"))
    return asdict(way) | {
        "auc": {name: round(float(auc(labels_N, np.concatenate(parts))), 5) for name, parts in found.items()},
        "examples_per_second": round(way.num_chunks * CHUNK / seconds),
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "evicted": learner.num_evicted,
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    base = Way("plain", 1, 1, 1)
    print(json.dumps(run(replace(base, **json.loads(sys.argv[1])))), flush=True)
