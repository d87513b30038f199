"""The second stage with fewer bits: bytes, speed and what it costs in AUC, on the champion of a trained workspace.

stock            float32, as bundles are
int8 tables      rows of 8-bit numbers with a scale and a bias each, read by the kernel that TorchRec's use (fbgemm)
int8 layers      torch's dynamic quantisation of every linear layer; the heads, one batched product, stay as they are
bf16             weights rounded to bfloat16, products in bfloat16 (autocast)
floor            the float32 network's linear layers alone, on the inputs that they get

Time is one user with 100 posts, encoded beforehand, one thread. AUC is over the test part, per head.

python -m benchmarks.quantised [--quick]      after `make train`; VITRINE_VAR_DIR and VITRINE_DATASET name the workspace
"""

import copy
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.report import durations_ms, finish, print_table
from core.settings import Settings
from models.bundle import SecondStageBundle
from models.embeddings import PlainTables, table_modules
from models.encode import EncodedSide, encode
from models.features import SIDES, FeatureSpec
from models.metrics import auc
from training.publish import champion_bundle
from training.set_files import load_set
from training.train import load_second_stage

NUM_POSTS = 100
BATCH = 2_048
MAX_LOSS = 0.001

Sides = tuple[EncodedSide, EncodedSide, EncodedSide]


class ByteTables(nn.Module):
    """`PlainTables` in 8 bits: per row its width in bytes, then scale and bias as float32."""

    def __init__(self, tables: PlainTables, spec: FeatureSpec) -> None:
        super().__init__()
        for t in spec.tables:
            packed = torch.ops.quantized.embedding_bag_byte_prepack(tables.weight(t.features[0]).detach())
            self.register_buffer(t.name, packed)
        self._table_of = {feature: t.name for t in spec.tables for feature in t.features}

    def embed(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {}
        for name, rows_BL in rows.items():
            flat = rows_BL.clamp(min=0).reshape(-1).long()
            vectors = torch.ops.quantized.embedding_bag_byte_rowwise_offsets(
                self.get_buffer(self._table_of[name]), flat, torch.arange(len(flat))
            )
            found[name] = vectors.view(*rows_BL.shape, -1)
        return found


@dataclass(frozen=True)
class Variant:
    """A network and what surrounds its forward pass."""

    module: nn.Module
    bytes: int
    around: Callable[[], AbstractContextManager[Any]] = nullcontext

    def logits(self, sides: Sides) -> Tensor:
        with torch.inference_mode(), self.around():
            return self.module(*sides).float()


def variants(bundle: SecondStageBundle) -> dict[str, Variant]:
    stock = bundle.module
    quantization: Any = torch.ao.quantization
    layers = quantization.quantize_dynamic(copy.deepcopy(stock), {nn.Linear}, dtype=torch.qint8)
    rounded = copy.deepcopy(stock)
    for part in (*rounded.parameters(), *rounded.buffers()):
        part.copy_(part.bfloat16())
    tables = with_byte_tables(stock, bundle.spec)
    both = with_byte_tables(layers, bundle.spec)
    found = {
        name: Variant(module, num_bytes(module))
        for name, module in {"stock": stock, "int8 tables": tables, "int8 layers": layers, "int8 both": both}.items()
    }
    in_bf16 = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    return found | {"bf16": Variant(rounded, num_bytes(stock) // 2, in_bf16)}


def with_byte_tables(module: nn.Module, spec: FeatureSpec) -> nn.Module:
    """A copy whose tables are `ByteTables`."""
    module = copy.deepcopy(module)
    for place, tables in table_modules(module).items():
        owner, _, name = place.rpartition(".")
        assert isinstance(tables, PlainTables)
        setattr(module.get_submodule(owner), name, ByteTables(tables, spec))
    return module


def num_bytes(module: nn.Module) -> int:
    """Bytes of weights and buffers, packed layers included."""
    plain = sum(t.nbytes for t in (*module.parameters(), *module.buffers()))
    packed: list[Any] = [part for part in module.modules() if isinstance(part, torch.ao.nn.quantized.dynamic.Linear)]
    return plain + sum(part.weight().numel() + 4 * (0 if part.bias() is None else part.out_features) for part in packed)


def linear_layers(module: nn.Module, sides: Sides) -> Callable[[], object]:
    """The linear layers of `module` one after the other, on the inputs that they have for `sides`."""
    calls: list[tuple[Tensor, Tensor, Tensor | None]] = []
    hooks = [
        part.register_forward_hook(lambda m, inputs, _: calls.append((inputs[0], m.weight, m.bias)))
        for part in module.modules()
        if isinstance(part, nn.Linear)
    ]
    with torch.inference_mode():
        module(*sides)
    for hook in hooks:
        hook.remove()

    def run() -> object:
        with torch.inference_mode():
            return [F.linear(*call) for call in calls]

    return run


def sides_of(spec: FeatureSpec, columns: Mapping[str, Any], rows: slice, user_rows: slice) -> Sides:
    user, post, cross = (
        encode(spec, side, {n: columns[n][user_rows if side == "user" else rows] for n in spec.columns(side)})
        for side in SIDES
    )
    return user, post, cross


def main(is_quick: bool) -> None:
    torch.set_num_threads(1)
    settings = Settings()
    bundle = load_second_stage(champion_bundle(settings, "second_stage"))
    test = load_set(settings.workspace.training_sets, "second_stage").examples("test")
    num_rows = min(test.num_rows, 20_000) if is_quick else test.num_rows
    found = variants(bundle)
    scored: dict[str, list[NDArray[np.float32]]] = {name: [] for name in found}
    for start in range(0, num_rows, BATCH):
        rows = slice(start, min(start + BATCH, num_rows))
        sides = sides_of(bundle.spec, test.columns, rows, rows)
        for name, variant in found.items():
            scored[name].append(variant.logits(sides).numpy())
    labels = test.labels[:num_rows]
    aucs = {name: head_aucs(bundle.heads, labels, np.concatenate(parts)) for name, parts in scored.items()}
    request = sides_of(bundle.spec, test.columns, slice(0, NUM_POSTS), slice(0, 1))
    calls: dict[str, Callable[[], object]] = {n: lambda v=v: v.logits(request) for n, v in found.items()}  # type: ignore[misc]
    taken = durations_ms(calls | {"floor": linear_layers(bundle.module, request)}, 1.0 if is_quick else 5.0, 50)
    p50 = {name: durations.median for name, durations in taken.items()}
    losses = {name: {head: aucs["stock"][head] - value for head, value in of.items()} for name, of in aucs.items()}
    rows_shown = [
        [name, f"{variant.bytes:,}", f"{p50[name]:.3f}", *(f"{loss:+.5f}" for loss in losses[name].values())]
        for name, variant in found.items()
    ]
    title = f"Second stage {bundle.bundle_id}: {NUM_POSTS} posts; loss of AUC over {num_rows:,} test rows"
    print_table(title, ["", "bytes", "p50 ms", *aucs["stock"]], rows_shown)
    finish(
        "quantised",
        p50["stock"] / p50["int8 tables"],
        p50["int8 tables"] / p50["floor"],
        is_quick,
        {
            "test_rows": num_rows,
            "bytes": {name: variant.bytes for name, variant in found.items()},
            "table_bytes": sum(4 * t.num_rows * t.dim for t in bundle.spec.tables) * len(table_modules(bundle.module)),
            "median_ms": {name: round(ms, 4) for name, ms in p50.items()},
            "auc": {head: round(value, 5) for head, value in aucs["stock"].items()},
            "worst_loss": {name: round(max(of.values()), 6) for name, of in losses.items()},
            "is_within": {name: max(of.values()) <= MAX_LOSS for name, of in losses.items()},
        },
    )


def head_aucs(heads: tuple[str, ...], labels: NDArray[np.float32], logits: NDArray[np.float32]) -> dict[str, float]:
    """AUC per head, of the rows whose label is known; heads with one class only are left out."""
    found = {}
    for h, head in enumerate(heads):
        is_known = ~np.isnan(labels[:, h])
        value = auc(labels[is_known, h], logits[is_known, h])
        if np.isfinite(value):
            found[head] = float(value)
    return found


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main("--quick" in sys.argv)
