"""Updates of the second stage with tables of 10 M rows: posts 8 and creators 16 wide, histories of 50.

stock    the same network on nn.Embedding(sparse=True) with SparseAdam
rowwise  the same, with row-wise Adagrad on the sparse gradients
ours     fbgemm's fused row-wise Adagrad, as the trainer uses it
*_bfloat16  stock and ours with the loss under autocast; weights and tables in float32
floor    bare gather and scatter of the rows that a batch reads, without a network
Batches of 4,096 posts; "rows" has a user on each, "requests" one for six posts, the same for all ways. Ids are drawn
log-uniformly over the tables. Every way runs in processes of its own, in turn, on one thread, and is judged by
processor time. Memory is what such a process grows by from before its network is built, best weights kept and put back
included, libraries not. At the end, training from a set's files beside training from memory (train_speed_files.py).

python -m benchmarks.train_speed [--quick]
"""

import json
import resource
import subprocess
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.report import finish, print_table
from benchmarks.train_speed_files import from_disk
from core.schema import HEADS
from models.encode import EncodedSide
from models.features import Feature, FeatureSpec
from models.inputs import indexed_rows
from models.losses import masked_bce
from models.second_stage import SecondStage, SecondStageConfig
from training.best_weights import BestWeights
from training.device import CPU, Precision, autocast
from training.encoded_examples import EncodedExamples
from training.loop import LoopConfig
from training.optimisers import Optimisers, RowwiseAdagrad
from training.recipe_features import Widths, cross_features, post_features, post_identity, user_features

SCALE = {True: 0.03, False: 0.1}
TABLE_ROWS = {True: 1_000_000, False: 10_000_000}
NUM_STEPS = {True: 2, False: 10}
ROUNDS = {True: 1, False: 3}
BATCH, HISTORY, POSTS_PER_REQUEST = 4_096, 50, 6
BIG = ("post", "creator")
KINDS = ("requests", "rows")
LOW = "_bfloat16"
WAYS = ("stock", "rowwise", "ours", f"stock{LOW}", f"ours{LOW}", "floor")

Step = Callable[[EncodedExamples], None]
Build = Callable[[FeatureSpec], tuple[Step, Callable[[], None]]]


class SparseTables(nn.Module):
    """One nn.Embedding with sparse gradients per table."""

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__()
        self.weights = nn.ModuleDict({t.name: nn.Embedding(t.num_rows, t.dim, sparse=True) for t in spec.tables})
        self.table_of = {f: t.name for t in spec.tables for f in t.features}

    def embed(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.weights[self.table_of[name]](rows_BL.clamp(min=0)) for name, rows_BL in rows.items()}


def production_spec(table_rows: int) -> FeatureSpec:
    """The second stage's features, with tables of posts and creators of `table_rows`."""
    unsized: Mapping[str, Any] = defaultdict(lambda: np.zeros(1, dtype=np.int64))
    widths = Widths(post=8)
    features = [*user_features(unsized, widths, HISTORY), *post_features(unsized, widths)]
    features += [post_identity(unsized, widths), *cross_features()]
    return FeatureSpec(tuple(replace(f, num_rows=table_rows) if f.table in BIG else f for f in features))


def make_batch(spec: FeatureSpec, kind: str, seed: int, size: int = BATCH) -> EncodedExamples:
    generator = torch.Generator().manual_seed(seed)
    num_users = size if kind == "rows" else -(-size // POSTS_PER_REQUEST)
    return EncodedExamples(
        _side(spec, "user", num_users, generator),
        _side(spec, "post", size, generator),
        _side(spec, "cross", size, generator),
        torch.arange(size) * num_users // size,
        (torch.rand(size, len(HEADS), generator=generator) < 0.1).float(),
        None,
    )


def _side(spec: FeatureSpec, side: Any, num_rows: int, generator: torch.Generator) -> EncodedSide:
    indexed = spec.side(side, "categorical") + spec.side(side, "codes")
    ids = [_ids(f, (num_rows, f.num_ids), generator) for f in indexed]
    return EncodedSide(
        torch.randn(num_rows, spec.numeric_width(side), generator=generator),
        torch.cat(ids, dim=1) if ids else torch.zeros(num_rows, 0, dtype=torch.int32),
        {f.name: _ids(f, (num_rows, f.length), generator) for f in spec.side(side, "sequence")},
        torch.randn(num_rows, spec.embedding_width(side), generator=generator),
    )


def _ids(feature: Feature, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Few rows often and most hardly ever, all over the table."""
    rank = torch.rand(shape, dtype=torch.float64, generator=generator).mul(np.log(feature.num_rows)).exp().long()
    return (rank * 2_654_435_761 % feature.num_rows).to(torch.int32)


def measure(way: str, is_quick: bool) -> dict[str, Any]:
    """Medians of one way in this process: seconds per step and share of the tables' bytes grown by, per kind."""
    torch.set_num_threads(1)
    spec = production_spec(TABLE_ROWS[is_quick])
    table_bytes = sum(t.num_rows * t.dim * 4 for t in spec.tables)
    batches = {kind: [make_batch(spec, kind, seed) for seed in range(NUM_STEPS[is_quick] + 1)] for kind in KINDS}
    precision: Precision = "bfloat16" if way.endswith(LOW) else "float32"
    name = way.removesuffix(LOW)
    build = _floor if name == "floor" else _ours(precision) if name == "ours" else _stock(name, precision)
    build(production_spec(16))[0](make_batch(production_spec(16), "rows", 0, 64))  # loads the libraries
    before = peak_bytes()
    step, finished = build(spec)
    seconds, memory = {}, {}
    for kind in KINDS:
        seconds[kind] = median([_processor_seconds(step, batch) for batch in batches[kind]][1:])
        finished()
        memory[kind] = (peak_bytes() - before) / table_bytes
    return {"seconds": seconds, "memory": memory}


def _processor_seconds(step: Step, batch: EncodedExamples) -> float:
    """Everything runs on one thread, so this is what a step takes when nothing else wants the processor."""
    start = time.process_time()
    step(batch)
    return time.process_time() - start


def _network(spec: FeatureSpec) -> SecondStage:
    torch.manual_seed(0)
    config = SecondStageConfig(history_length=HISTORY)
    return SecondStage(spec, config, is_training=True).train()


def _loss(module: SecondStage, batch: EncodedExamples, precision: Precision) -> Tensor:
    with autocast(CPU, precision):
        return masked_bce(module.each(*batch.sides)[0], batch.labels)


def _ours(precision: Precision) -> Build:
    def build(spec: FeatureSpec) -> tuple[Step, Callable[[], None]]:
        module, loop = _network(spec), LoopConfig()
        optimisers = Optimisers(
            module, loop.learning_rate, loop.table_learning_rate, loop.weight_decay, loop.max_gradient_norm
        )

        def finished() -> None:
            with BestWeights(module) as best:
                best.keep()
                best.restore()

        return lambda batch: optimisers.step(_loss(module, batch, precision)), finished

    return build


def _stock(way: str, precision: Precision) -> Build:
    def build(spec: FeatureSpec) -> tuple[Step, Callable[[], None]]:
        small = FeatureSpec(tuple(replace(f, num_rows=2) if f.table in BIG else f for f in spec.features))
        module, loop = _network(small), LoopConfig()
        tables = SparseTables(spec)
        for network in module.networks:
            network.tables = tables
        is_table = {id(p) for p in tables.parameters()}
        dense = [p for p in module.parameters() if id(p) not in is_table]
        rate = loop.table_learning_rate
        optimisers: list[torch.optim.Optimizer] = [torch.optim.AdamW(dense, lr=loop.learning_rate)]
        parameters = list(tables.parameters())
        if way == "stock":
            optimisers.append(torch.optim.SparseAdam(parameters, lr=rate))
        else:
            optimisers.append(RowwiseAdagrad(parameters, lr=rate))

        def step(batch: EncodedExamples) -> None:
            loss = _loss(module, batch, precision)
            for optimiser in optimisers:
                optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(dense, loop.max_gradient_norm)
            for optimiser in optimisers:
                optimiser.step()

        return step, lambda: None

    return build


def _floor(spec: FeatureSpec) -> tuple[Step, Callable[[], None]]:
    weights = {t.name: torch.zeros(t.num_rows, t.dim) for t in spec.tables}

    def step(batch: EncodedExamples) -> None:
        rows = indexed_rows(spec, "user", batch.user) | indexed_rows(spec, "post", batch.post)
        for t in spec.tables:
            read_M = torch.cat([rows[f].flatten() for f in t.features])
            weights[t.name].index_copy_(0, read_M.long(), weights[t.name].index_select(0, read_M))

    return step, lambda: None


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(is_quick: bool) -> None:
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    command = [sys.executable, "-m", "benchmarks.train_speed", *(["--quick"] if is_quick else []), "--way"]
    for _ in range(ROUNDS[is_quick]):
        for way in WAYS:
            done = subprocess.run([*command, way], check=True, capture_output=True, text=True, timeout=900)
            found[way].append(json.loads(done.stdout.splitlines()[-1]))
    show(found, is_quick)


def _low_ratio(ms: Mapping[str, Mapping[str, float]], kind: str) -> float:
    return round(ms[f"stock{LOW}"][kind] / ms[f"ours{LOW}"][kind], 2)


def show(found: Mapping[str, list[dict[str, Any]]], is_quick: bool) -> None:
    ms = {way: {k: 1000 * median(one["seconds"][k] for one in runs) for k in KINDS} for way, runs in found.items()}
    memory = {way: {k: median(one["memory"][k] for one in runs) for k in KINDS} for way, runs in found.items()}
    print_table(
        f"Updates of {BATCH:,} posts, two tables of {TABLE_ROWS[is_quick]:,} rows, medians",
        ["", *(f"ms, user per {kind[:-1]}" for kind in KINDS), *(f"memory / tables, {kind}" for kind in KINDS)],
        [[way, *(f"{ms[way][k]:,.0f}" for k in KINDS), *(f"{memory[way][k]:.2f}" for k in KINDS)] for way in WAYS],
    )
    finish(
        "train_speed",
        ms["stock"]["rows"] / ms["ours"]["rows"],
        ms["ours"]["rows"] / ms["floor"]["rows"],
        is_quick,
        {
            "ratio_to_rowwise": round(ms["rowwise"]["rows"] / ms["ours"]["rows"], 2),
            "ratio_to_stock_by_requests": round(ms["stock"]["requests"] / ms["ours"]["requests"], 2),
            "ratio_to_rowwise_by_requests": round(ms["rowwise"]["requests"] / ms["ours"]["requests"], 2),
            "ratio_ours_by_requests_to_stock_by_rows": round(ms["stock"]["rows"] / ms["ours"]["requests"], 2),
            f"ratio_to_stock{LOW}": _low_ratio(ms, "rows"),
            f"ratio_to_stock_by_requests{LOW}": _low_ratio(ms, "requests"),
            "memory_to_tables": {way: {k: round(v, 2) for k, v in by.items()} for way, by in memory.items()},
            **from_disk(SCALE[is_quick], is_quick),
            "table_rows": TABLE_ROWS[is_quick],
            "batch_posts": BATCH,
            "median_ms": {way: {k: round(value, 1) for k, value in by.items()} for way, by in ms.items()},
        },
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if "--way" in sys.argv:
        print(json.dumps(measure(sys.argv[sys.argv.index("--way") + 1], "--quick" in sys.argv)), flush=True)
    else:
        main("--quick" in sys.argv)
