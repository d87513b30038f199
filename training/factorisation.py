"""Weighted matrix factorisation by alternating least squares: a baseline of retrieval.

Minimises the squared error of the pairs against 1, plus `gravity` times all scores squared, which pulls what
nobody engaged with to 0, plus L2 that grows with how often a row occurs.
Source: Hu, Koren, Volinsky, Collaborative filtering for implicit feedback, ICDM 2008; the form with a gravity
term and the scaled L2 from Rendle et al., Revisiting the performance of iALS, RecSys 2022.
Legend: U users, P posts, D dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Int64s = NDArray[np.int64]
SOLVED_VALUES = 20_000_000
"""Values of normal equations and gathered rows held at a time."""


@dataclass(frozen=True)
class FactorisationConfig:
    """How the factors are fitted."""

    dim: int = 128
    num_sweeps: int = 8
    gravity: float = 0.03
    regularisation: float = 0.003
    frequency_power: float = 0.5
    """L2 of a row grows with (its pairs + gravity x all rows of the other side) to this power."""


def factorise(
    users: Int64s,
    posts: Int64s,
    num_users: int,
    num_posts: int,
    config: FactorisationConfig | None = None,
    seed: int = 0,
    user_codes: Sequence[Int64s] = (),
    post_codes: Sequence[Int64s] = (),
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """User vectors [U, D] and post vectors [P, D], whose inner products rank.

    Side features are codes from 0, [U] or [P] each, -1 null. A user's code is one more post that the user engaged
    with, a post's code one more user: the factors then explain features and engagements together.
    """
    config = config or FactorisationConfig()
    all_users, all_posts = [users], [posts]
    height, width = num_users, num_posts
    for codes in user_codes:
        owners = np.flatnonzero(codes >= 0)
        all_users.append(owners)
        all_posts.append(codes[owners] + width)
        width += int(codes.max(initial=-1)) + 1
    for codes in post_codes:
        owners = np.flatnonzero(codes >= 0)
        all_users.append(codes[owners] + height)
        all_posts.append(owners)
        height += int(codes.max(initial=-1)) + 1
    rows, columns = np.concatenate(all_users), np.concatenate(all_posts)
    by_user, by_post = _Grouped.of(rows, columns, height), _Grouped.of(columns, rows, width)
    generator = torch.Generator().manual_seed(seed)
    user_vectors = torch.zeros(height, config.dim)
    post_vectors = torch.randn(width, config.dim, generator=generator) * (0.1 / config.dim**0.5)
    for _ in range(config.num_sweeps):
        user_vectors = _solved(by_user, post_vectors, config)
        post_vectors = _solved(by_post, user_vectors, config)
    return user_vectors[:num_users].numpy(), post_vectors[:num_posts].numpy()


def fold_in(
    users: Int64s,
    posts: Int64s,
    num_users: int,
    post_vectors: NDArray[np.float32],
    config: FactorisationConfig | None = None,
) -> NDArray[np.float32]:
    """Vectors [U, D] of users who were not among the fitted, from the posts they engaged with; zeros without any."""
    group = _Grouped.of(users, posts, num_users)
    return _solved(group, torch.from_numpy(post_vectors), config or FactorisationConfig()).numpy()


@dataclass(frozen=True)
class _Grouped:
    """The other side's rows that each row of one side is paired with."""

    starts: Int64s
    others: Int64s

    @staticmethod
    def of(rows: Int64s, others: Int64s, num_rows: int) -> "_Grouped":
        starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=num_rows))])
        return _Grouped(starts, others[np.argsort(rows, kind="stable")])


def _solved(group: _Grouped, fixed_ND: Tensor, config: FactorisationConfig) -> Tensor:
    """The rows of one side that minimise the loss while the other side stays."""
    dim, counts = config.dim, np.diff(group.starts)
    gram_DD = config.gravity * fixed_ND.T @ fixed_ND
    solved = torch.zeros(len(counts), dim)
    order = np.argsort(counts, kind="stable")  # rows alike in length are padded little
    order = order[counts[order] > 0]
    at = 0
    while at < len(order):
        batch = order[at : at + _batch_rows(counts[order[at:]], dim)]
        at += len(batch)
        places = np.arange(counts[batch].max())
        is_there_BL = places < counts[batch][:, None]
        others_BL = group.others[np.minimum(group.starts[batch][:, None] + places, len(group.others) - 1)]
        vectors_BLD = fixed_ND[torch.from_numpy(others_BL)] * torch.from_numpy(is_there_BL)[:, :, None]
        strength_B = config.regularisation * (counts[batch] + config.gravity * len(fixed_ND)) ** config.frequency_power
        ridge_BDD = torch.from_numpy(strength_B).float()[:, None, None] * torch.eye(dim)
        normal_BDD = vectors_BLD.transpose(1, 2) @ vectors_BLD + gram_DD + ridge_BDD
        solved[torch.from_numpy(batch)] = torch.linalg.solve(normal_BDD, vectors_BLD.sum(1))
    return solved


def _batch_rows(counts: Int64s, dim: int) -> int:
    """How many of the next rows, in order of their number of pairs, fit in memory together."""
    sizes = (np.maximum.accumulate(counts) + dim) * dim * np.arange(1, len(counts) + 1)
    return max(1, int(np.searchsorted(sizes, SOLVED_VALUES, side="right")))
