"""What a network costs: floating-point operations of one example, and parameters in tables and elsewhere.

Operations are those of matrix products, multiplications and additions alike, as torch's own counter finds them while
the network runs. Element-wise work and norms are not counted; reading rows of tables is bytes, not operations.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from models.embeddings import table_modules
from models.encode import EncodedSide, blank_side
from models.features import FeatureSpec


@dataclass(frozen=True)
class Cost:
    """One example is a user with full histories and a post, scored once."""

    flops_per_example: int
    table_bytes_per_example: int
    """Bytes of float32 rows that are read."""
    table_parameters: int
    dense_parameters: int


def forward_flops(run: Callable[[], object]) -> int:
    """Operations of the matrix products in `run`, attention included."""
    # Torch's table lacks the attention kernel of the CPU, which no decomposition replaces.
    attention: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counter = FlopCounterMode(display=False, custom_mapping={attention: _attention_flops})
    with torch.no_grad(), counter:
        run()
    return int(counter.get_total_flops())


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def cost_of(
    module: nn.Module, spec: FeatureSpec, run: Callable[[EncodedSide, EncodedSide, EncodedSide], object]
) -> Cost:
    """The cost of a network whose tables may be cut to few rows: their true sizes are those of `spec`.

    `run` scores one user, post and cross side with it.
    """
    collections = len(table_modules(module))
    places = tuple(f"{place}." for place in table_modules(module))
    indexed = [f for f in spec.features if f.is_indexed]
    return Cost(
        flops_per_example=forward_flops(lambda: run(*(blank_side(spec, side) for side in ("user", "post", "cross")))),
        table_bytes_per_example=4 * collections * sum(f.length * f.dim * (1 + (f.hashing == "multi")) for f in indexed),
        table_parameters=collections * sum(t.num_rows * t.dim for t in spec.tables),
        dense_parameters=sum(p.numel() for name, p in module.named_parameters() if not name.startswith(places)),
    )


def with_few_rows(spec: FeatureSpec) -> FeatureSpec:
    """The spec with tables of two rows: nothing that is computed depends on how many there are."""
    small = {"num_rows": 2, "hashing": "plain", "min_count": 1}
    return FeatureSpec(tuple(replace(f, **small) if f.is_indexed else f for f in spec.features))  # type: ignore[arg-type]
