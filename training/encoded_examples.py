"""Labelled rows as tensors, in memory or batch by batch from their files.

Legend: N rows, R users (one per request), H heads.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.encode import EncodedSide, encode
from models.features import FeatureSpec
from training.examples import Examples
from training.unknown_users import as_unknown_users


@dataclass(frozen=True)
class EncodedExamples:
    """Examples as tensors, encoded once: users [R], posts [N] and crosses [N], labels [N, H] and row weights [N].

    `user_of` [N] is each post's row of the users.
    """

    user: EncodedSide
    post: EncodedSide
    cross: EncodedSide
    user_of: Tensor
    labels: Tensor
    weights: Tensor | None

    @property
    def sides(self) -> tuple[EncodedSide, EncodedSide, EncodedSide, Tensor]:
        """What the network is asked with."""
        return self.user, self.post, self.cross, self.user_of

    def take(self, rows: Tensor) -> "EncodedExamples":
        """The given rows, with each of their users once."""
        weights = None if self.weights is None else self.weights[rows]
        cross = self.cross.take(rows) if self.cross.num_rows > 1 else self.cross
        users, user_of = torch.unique(self.user_of[rows], return_inverse=True)
        return EncodedExamples(self.user.take(users), self.post.take(rows), cross, user_of, self.labels[rows], weights)


def encode_examples(spec: FeatureSpec, examples: Examples, heads: tuple[str, ...]) -> EncodedExamples:
    """The examples' tensors. Raises ValueError for a missing column or head."""
    labels = torch.from_numpy(examples.labels_of(heads))
    users, user_of = examples.users()
    return EncodedExamples(
        encode(spec, "user", users),
        encode(spec, "post", examples.columns),
        encode(spec, "cross", examples.columns),
        torch.from_numpy(user_of),
        labels,
        None if examples.weights is None else torch.from_numpy(np.array(examples.weights, dtype=np.float32)),
    )


def forget_users(encoded: EncodedExamples, spec: FeatureSpec, examples: Examples, users: NDArray[np.int64]) -> None:
    """Lets all posts of some `users` (rows of the user side) read as if nobody had met the user; in place."""
    rows = np.flatnonzero(np.isin(encoded.user_of.numpy(), users))
    if not len(rows):
        return
    unknown = as_unknown_users(examples.take(rows))
    encoded.user.overwrite(encoded.user_of[rows], encode(spec, "user", unknown.columns))
    if spec.side("cross"):
        encoded.cross.overwrite(torch.from_numpy(rows), encode(spec, "cross", unknown.columns))


class StoredExamples:
    """Examples that stay in their files; a batch is encoded when it is taken, so memory does not grow with them."""

    def __init__(
        self, spec: FeatureSpec, examples: Examples, heads: tuple[str, ...], forgotten: NDArray[np.int64] | None = None
    ) -> None:
        self._spec, self._examples, self._heads = spec, examples, heads
        self._forgotten = np.empty(0, np.int64) if forgotten is None else forgotten
        self.user_of = torch.from_numpy(examples.users()[1])

    def take(self, rows: Tensor) -> EncodedExamples:
        """The given rows, with each of their users once."""
        few = self._examples.take(rows.numpy())
        encoded = encode_examples(self._spec, few, self._heads)
        users = np.unique(self.user_of[rows].numpy())
        forget_users(encoded, self._spec, few, np.flatnonzero(np.isin(users, self._forgotten)))
        return encoded


def rows_by_user(user_of: Tensor) -> Callable[[Tensor], Tensor]:
    """Gives the rows of some users, one user's after the other's, of `user_of` [N]."""
    order, counts = user_of.argsort(stable=True), torch.bincount(user_of)
    first = counts.cumsum(0) - counts

    def rows_of(users: Tensor) -> Tensor:
        of_batch = counts[users]
        within = torch.arange(int(of_batch.sum())) - (of_batch.cumsum(0) - of_batch).repeat_interleave(of_batch)
        return order[first[users].repeat_interleave(of_batch) + within]

    return rows_of
