"""What a training loop reads: columns with labels, in memory or memory-mapped."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.schema import HEADS
from models.features import Columns

CANDIDATE_SCORE, CANDIDATE_RANK = "candidate__score", "candidate__rank"
"""Columns of first-stage examples: the second stage's score, and the place by it within the request, 0 best."""


@dataclass(frozen=True)
class RequestColumns(Mapping[str, NDArray[Any]]):
    """Columns of N examples, those of the user kept once per request and repeated whenever one is read.

    `own` [N] each, `users` [R] each, `user_of` [N] row of `users`.
    """

    own: Columns
    users: Columns
    user_of: NDArray[np.integer[Any]]

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self.users:
            return self.own[name]
        repeated: NDArray[Any] = self.users[name][self.user_of]
        return repeated

    def __iter__(self) -> Iterator[str]:
        yield from self.own
        yield from self.users

    def __len__(self) -> int:
        return len(self.own) + len(self.users)

    def take(self, rows: NDArray[Any] | slice) -> "RequestColumns":
        """The given rows, and of the users those that they need."""
        needed, user_of = np.unique(self.user_of[rows], return_inverse=True)
        is_range = len(needed) > 0 and needed[-1] - needed[0] + 1 == len(needed)
        users: NDArray[Any] | slice = slice(int(needed[0]), int(needed[-1]) + 1) if is_range else needed
        return RequestColumns(taken(self.own, rows), taken(self.users, users), user_of)


def taken(columns: Columns, rows: NDArray[Any] | slice) -> Columns:
    """The given rows of every column; users stay shared where they were."""
    if isinstance(columns, RequestColumns):
        return columns.take(rows)
    return {name: values[rows] for name, values in columns.items()}


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
        if isinstance(self.columns, RequestColumns):  # reading a column of the users would repeat it
            rows["user_of"] = len(self.columns.user_of)
        own = self.columns.own if isinstance(self.columns, RequestColumns) else self.columns
        rows |= {name: len(values) for name, values in own.items()}
        if len(set(rows.values())) > 1:
            odd = {k: v for k, v in rows.items() if v != len(self.labels)}
            raise ValueError(f"examples differ in rows: labels have {len(self.labels)}, {odd}")
        if self.labels.ndim != 2 or self.labels.shape[1] != len(self.label_names):
            raise ValueError(f"labels have shape {self.labels.shape}, expected [N, {len(self.label_names)}]")

    @property
    def num_rows(self) -> int:
        return len(self.labels)

    def users(self) -> tuple[Columns, NDArray[np.int64]]:
        """Columns of the users, [R] each, and each example's row of them, [N]; its own row where none are shared."""
        if isinstance(self.columns, RequestColumns):
            return self.columns.users, self.columns.user_of.astype(np.int64)
        return self.columns, np.arange(self.num_rows)

    def take(self, rows: NDArray[Any] | slice) -> "Examples":
        """The given rows, in the order given; copies, unless `rows` is a slice."""
        return Examples(
            taken(self.columns, rows),
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
