"""What a training loop reads: columns with labels, in memory or memory-mapped."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.schema import HEADS
from models.features import Columns

CANDIDATE_SCORE, CANDIDATE_RANK = "candidate__score", "candidate__rank"
"""Columns of first-stage examples: the second stage's score, and the place by it within the request, 0 best."""


@dataclass(frozen=True)
class Examples:
    """N labelled rows; a row is one impression, or one candidate of a request for the first stage.

    labels [N, H] float32, NaN where the label was not observed, in the order of `label_names`;
    served_at [N] unix seconds; weights [N] float32 inverse sampling rates, None for all 1.
    """

    columns: Columns
    labels: NDArray[np.float32]
    user_ids: NDArray[np.int64]
    post_ids: NDArray[np.int64]
    request_ids: NDArray[np.int64]
    served_at: NDArray[np.float64]
    weights: NDArray[np.float32] | None = None
    label_names: tuple[str, ...] = HEADS

    def __post_init__(self) -> None:
        rows = {
            "labels": len(self.labels),
            "user_ids": len(self.user_ids),
            "post_ids": len(self.post_ids),
            "request_ids": len(self.request_ids),
            "served_at": len(self.served_at),
        } | ({} if self.weights is None else {"weights": len(self.weights)})
        rows |= {name: len(values) for name, values in self.columns.items()}
        if len(set(rows.values())) > 1:
            odd = {k: v for k, v in rows.items() if v != len(self.labels)}
            raise ValueError(f"examples differ in rows: labels have {len(self.labels)}, {odd}")
        if self.labels.ndim != 2 or self.labels.shape[1] != len(self.label_names):
            raise ValueError(f"labels have shape {self.labels.shape}, expected [N, {len(self.label_names)}]")

    @property
    def num_rows(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[Any] | slice) -> "Examples":
        """The given rows, in the order given; copies, unless `rows` is a slice."""
        return Examples(
            {name: values[rows] for name, values in self.columns.items()},
            self.labels[rows],
            self.user_ids[rows],
            self.post_ids[rows],
            self.request_ids[rows],
            self.served_at[rows],
            None if self.weights is None else self.weights[rows],
            self.label_names,
        )

    def labels_of(self, heads: Sequence[str]) -> NDArray[np.float32]:
        """Labels of some heads, [N, len(heads)]. Raises ValueError for one that has no label."""
        unknown = sorted(set(heads) - set(self.label_names))
        if unknown:
            raise ValueError(
                f"heads {', '.join(unknown)} are no labels, expected some of {', '.join(self.label_names)}"
            )
        return np.ascontiguousarray(self.labels[:, [self.label_names.index(head) for head in heads]])
