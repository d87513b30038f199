"""Training the second stage with what belongs to a request stored, loaded, encoded and computed once for its posts.

stock    the same network on the same batches with the user's columns on every row
ours     the user's columns once per request, from the set's files to the loss
floor    ours with the batches encoded in memory beforehand
The world's own log: requests of 5 to 8 posts, histories as of their serve time. A step is a batch read from the files,
encoded, and one update. Both sides start from the same weights, without dropout, and must have the same losses.

python -m benchmarks.dedup [--quick]
"""

import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from benchmarks.dedup_data import build_world, folder_bytes, training_rows, write_rows
from benchmarks.dedup_ranks import bytes_of_every_lookup, exchange, rows_of
from benchmarks.report import finish, print_table, seconds_of
from core.workspace import Workspace
from models.features import FeatureSpec, fit_spec
from models.losses import masked_bce
from models.second_stage import SecondStage, SecondStageConfig
from training.encoded_examples import EncodedExamples, encode_examples, rows_by_user
from training.examples import Examples, RequestColumns
from training.loop import LoopConfig
from training.optimisers import Optimisers
from training.recipes import second_stage
from training.set_files import ExampleSet

SCALE = {True: 0.03, False: 0.1}
NUM_STEPS = {True: 3, False: 7}
BATCH = 1_024
Encoder = Literal["none", "transformer", "hstu"]
HEADLINE: Encoder = "transformer"
LENGTHS = {True: (50,), False: (50, 200)}
ENCODERS: dict[bool, tuple[Encoder, ...]] = {
    True: ("none", HEADLINE),
    False: ("none", HEADLINE, "hstu"),
}
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Case:
    """Rows with histories of one length, stored both ways."""

    length: int
    shared: ExampleSet
    repeated: ExampleSet
    batches: list[np.ndarray]
    spec: FeatureSpec


class Run:
    """One side of a case: a network that takes a step per batch and remembers its losses."""

    def __init__(self, case: Case, config: SecondStageConfig, batch_at: Callable[[int], EncodedExamples]) -> None:
        self.batch_at, self.losses = batch_at, list[float]()
        torch.manual_seed(0)
        self.module = SecondStage(case.spec, config, is_training=True).train()
        loop = LoopConfig()
        self.optimisers = Optimisers(
            self.module, loop.learning_rate, loop.table_learning_rate, loop.weight_decay, loop.max_gradient_norm
        )
        first = batch_at(0)
        self.module.start_from(*first.sides, torch.full((len(config.heads),), 0.05))

    def step(self, place: int) -> None:
        batch = self.batch_at(place)
        logits = self.module.each(*batch.sides)
        loss: Tensor = torch.stack([masked_bce(found, batch.labels, None, batch.weights) for found in logits]).mean()
        self.optimisers.step(loss)
        self.losses.append(float(loss.detach()))


def main(is_quick: bool) -> None:
    torch.set_num_threads(1)
    raw: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        workspace = build_world(Path(folder), SCALE[is_quick])
        for length in LENGTHS[is_quick]:
            case = make_case(Path(folder), workspace, length, NUM_STEPS[is_quick])
            raw[str(length)] = sizes(case) | between_ranks(case)
            for encoder in ENCODERS[is_quick]:
                raw[str(length)][encoder] = measure(case, encoder)
    show(raw, is_quick)


def make_case(folder: Path, workspace: Workspace, length: int, num_steps: int) -> Case:
    rows = training_rows(workspace, length)
    recipe = second_stage(rows.columns)
    features = [replace(f, length=length) if f.group == "history" else f for f in recipe.features]
    shared, repeated = (write_rows(folder, f"{length}-{kind}", rows, kind == "shared") for kind in ("shared", "rows"))
    user_of = torch.from_numpy(rows.users()[1])
    order = torch.randperm(int(user_of.max()) + 1, generator=torch.Generator().manual_seed(0))
    per_batch = round(BATCH * len(order) / rows.num_rows)
    rows_of = rows_by_user(user_of)
    batches = [rows_of(order[i * per_batch : (i + 1) * per_batch]).numpy() for i in range(num_steps + 1)]
    return Case(length, shared, repeated, batches, fit_spec(features, rows.columns))


def measure(case: Case, encoder: Encoder) -> dict[str, float]:
    """Examples per second of the three ways, which take turns, and the largest difference of their losses."""
    config = SecondStageConfig(history_length=case.length, history_encoder=encoder, dropout=0.0)

    def from_files(stored: ExampleSet) -> Callable[[int], EncodedExamples]:
        examples = stored.examples("train")
        return lambda place: encode_examples(case.spec, examples.take(case.batches[place]), config.heads)

    shared, repeated = from_files(case.shared), from_files(case.repeated)
    encoded = [shared(place) for place in range(len(case.batches))]
    ways = {"stock": repeated, "ours": shared, "floor": encoded.__getitem__}
    runs = {name: Run(case, config, batch_at) for name, batch_at in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for place in range(len(case.batches)):
        for name, run in runs.items():
            seconds[name].append(seconds_of(lambda run=run, place=place: run.step(place)))  # type: ignore[misc]
    losses = np.array([run.losses for run in runs.values()])
    difference = float(np.abs(losses - losses[0]).max())
    if difference > TOLERANCE:
        raise ValueError(f"losses differ by {difference}, more than {TOLERANCE}; the two ways do not train one network")
    per_batch = median(len(rows) for rows in case.batches)
    rates = {name: per_batch / median(s[1:]) for name, s in seconds.items()}  # the first step warms up
    return {f"{name}_examples_per_second": round(rate, 1) for name, rate in rates.items()} | {
        "ratio_to_stock": round(rates["ours"] / rates["stock"], 2),
        "ratio_to_floor": round(rates["floor"] / rates["ours"], 2),
        "max_loss_difference": difference,
        "first_loss": runs["ours"].losses[0],
        "last_loss": runs["ours"].losses[-1],
    }


def sizes(case: Case) -> dict[str, float]:
    """Bytes on disk, and bytes of columns that a batch takes out of the files."""
    found: dict[str, float] = {}
    for name, stored in (("ours", case.shared), ("stock", case.repeated)):
        taken = [loaded_bytes(stored.examples("train").take(rows)) for rows in case.batches]
        found[f"{name}_disk_bytes"] = folder_bytes(stored.folder)
        found[f"{name}_loaded_bytes_per_example"] = round(sum(taken) / sum(len(rows) for rows in case.batches))
    users = case.shared.examples("train").users()[0]["user_history__history_post_ids"]
    return found | {
        "posts_per_request": round(case.shared.manifest.rows / len(users), 2),
        "history_filled": round(float((users >= 0).mean()), 2),
    }


def loaded_bytes(rows: Examples) -> int:
    """Size of the columns; text counts as the codes that the files hold."""
    columns = rows.columns
    arrays = list(columns.values())
    if isinstance(columns, RequestColumns):
        arrays = [*columns.own.values(), *columns.users.values(), columns.user_of.astype(np.int32)]
    return sum(a.size * 4 if a.dtype == object else a.nbytes for a in arrays)


def between_ranks(case: Case) -> dict[str, float]:
    """Bytes that two ranks send each other for a batch each, counted with both, and what single lookups would take.

    The trainer's tables send a row once per batch whoever reads it, so that here both ways come to the same.
    """
    found: dict[str, float] = {}
    for name, stored in (("ours", case.shared), ("stock", case.repeated)):
        examples = stored.examples("train")
        batches = [encode_examples(case.spec, examples.take(rows), ("click",)) for rows in case.batches[:2]]
        by_rank, examples_sent = [rows_of(case.spec, batch) for batch in batches], sum(map(len, case.batches[:2]))
        sent, seconds = exchange(case.spec, by_rank)
        every = sum(bytes_of_every_lookup(case.spec, rows) for rows in by_rank)
        found[f"{name}_rank_bytes_per_example"] = round(sent / examples_sent)
        found[f"{name}_rank_bytes_of_every_lookup"] = round(every / examples_sent)
        found[f"{name}_rank_exchange_ms"] = round(seconds * 1000, 1)
    return found


def show(raw: dict[str, Any], is_quick: bool) -> None:
    rows = []
    for length in raw:
        for encoder in ENCODERS[is_quick]:
            one = raw[length][encoder]
            rates = [f"{one[f'{way}_examples_per_second']:,.0f}" for way in ("stock", "ours", "floor")]
            difference = f"{one['max_loss_difference']:.0e}"
            rows.append([f"{encoder}, history of {length}", *rates, f"{one['ratio_to_stock']:.2f}x", difference])
    headings = ["examples/s", "once per row", "once per request", "in memory", "ratio", "losses differ by"]
    print_table(f"Second stage, batches of {BATCH:,} examples", headings, rows)
    ratio = min(raw[length][HEADLINE]["ratio_to_stock"] for length in raw)
    floor = max(raw[length][HEADLINE]["ratio_to_floor"] for length in raw)
    finish("dedup", ratio, floor, is_quick, {"batch_examples": BATCH, "history": raw})


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main("--quick" in sys.argv)
