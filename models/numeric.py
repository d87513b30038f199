"""Numeric columns before standardising: nulls, transforms, samples.

Legend: N rows, F features.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Columns = Mapping[str, NDArray[Any]]
"""Columns by name: float32 with NaN null, int64 with -1 null, str with "" null, lists as [N, L]."""

Transform = Literal["identity", "log1p", "logit"]
LOGIT_EPSILON = 1e-6


def require_columns(names: Iterable[str], columns: Columns) -> None:
    """Raises ValueError that names every column that is not there."""
    missing = sorted(n for n in names if n not in columns)
    if missing:
        raise ValueError(f"columns missing: {', '.join(missing)}; the model's FeatureSpec reads them")


def sample_rows(values: NDArray[Any], limit: int) -> NDArray[Any]:
    """At most about `limit` rows, evenly spaced."""
    return values[:: max(1, -(-len(values) // limit))]


def transformed(values: NDArray[Any], transform: Transform) -> NDArray[np.float32]:
    """Numeric column after its transform, nulls as NaN, before standardising, [N]."""
    block_1N: NDArray[np.float32] = np.empty((1, len(values)), dtype=np.float32)
    read_numeric(values, block_1N[0])
    transform_block(block_1N, slice(0, int(transform == "log1p")), slice(0, int(transform == "logit")))
    return block_1N.reshape(-1)


def is_null(values: NDArray[Any]) -> NDArray[np.bool_]:
    """True where a numeric column is null or not finite, [N]."""
    return ~np.isfinite(transformed(values, "identity"))


def read_numeric(values: NDArray[Any], out_N: NDArray[np.float32]) -> None:
    """Copies a column into `out_N` as float32; -1 in an integer column is null, NaN here."""
    out_N[:] = values
    if values.dtype.kind == "i":
        out_N[values == -1] = np.nan


def transform_block(block_FN: NDArray[np.float32], logs: slice, logits: slice) -> None:
    """Transforms rows `logs` by log1p and rows `logits` by the logit, in place."""
    logs_block = block_FN[logs]
    np.maximum(logs_block, 0.0, out=logs_block)
    np.log1p(logs_block, out=logs_block)
    rates = np.clip(block_FN[logits], LOGIT_EPSILON, 1.0 - LOGIT_EPSILON)
    block_FN[logits] = np.log(rates) - np.log1p(-rates)
