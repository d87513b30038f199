"""Training from a set's files beside training on the same rows in memory, on the simulated world's log."""

import tempfile
import time
from itertools import islice
from pathlib import Path
from statistics import median

import torch

from benchmarks.dedup_data import build_world
from models.features import fit_spec
from models.losses import masked_bce
from models.second_stage import SecondStage
from training.encoded_examples import EncodedExamples, StoredExamples, encode_examples, rows_by_user
from training.fit_second_stage import BLOCK_UNITS, SecondStageRun
from training.loop import prepared_ahead, shuffled_batches
from training.optimisers import Optimisers
from training.recipes import second_stage
from training.set_files import load_set

NUM_BATCHES = {True: 4, False: 8}
TURNS = {True: 2, False: 5}


def from_disk(scale: float, is_quick: bool) -> dict[str, float]:
    """Examples per second from files and from memory, which take turns, and their ratio."""
    run = SecondStageRun()
    with tempfile.TemporaryDirectory() as folder:
        workspace = build_world(Path(folder), scale)
        train = load_set(workspace.training_sets, "second_stage").examples("train")
        spec = fit_spec(second_stage(train.columns).features, train.columns).cut(run.network.history_length)
        in_memory = encode_examples(spec, train, run.network.heads)
        sources: dict[str, tuple[EncodedExamples | StoredExamples, int]] = {
            "memory": (in_memory, 0),
            "files": (StoredExamples(spec, train, run.network.heads), BLOCK_UNITS),
        }
        torch.manual_seed(0)
        module = SecondStage(spec, run.network, is_training=True).train()
        loop = run.loop
        optimisers = Optimisers(
            module, loop.learning_rate, loop.table_learning_rate, loop.weight_decay, loop.max_gradient_norm
        )
        rows_of, num_users = rows_by_user(in_memory.user_of), in_memory.user.num_rows
        per_batch = round(loop.batch_size * num_users / train.num_rows)

        def turn(source: EncodedExamples | StoredExamples, block: int, seed: int) -> int:
            drawn = shuffled_batches(num_users, per_batch, torch.Generator().manual_seed(seed), block)
            few, num_rows = islice(drawn, NUM_BATCHES[is_quick]), 0
            for batch in prepared_ahead(few, lambda users: source.take(rows_of(users))):
                optimisers.step(masked_bce(module.each(*batch.sides)[0], batch.labels))
                num_rows += len(batch.labels)
            return num_rows

        rates: dict[str, list[float]] = {name: [] for name in sources}
        for seed in range(TURNS[is_quick] + 1):
            for name, (source, block) in sources.items():
                start = time.perf_counter()
                rows = turn(source, block, seed)
                rates[name].append(rows / (time.perf_counter() - start))
    found = {name: median(each[1:]) for name, each in rates.items()}  # the first turn warms up
    return {
        "from_disk_ratio": round(found["files"] / found["memory"], 2),
        **{f"{name}_examples_per_second": round(rate) for name, rate in found.items()},
    }
