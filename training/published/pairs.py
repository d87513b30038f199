"""Splits of user-post pairs: `train.txt` and `test.txt`, a user and the posts engaged with per line.

    user post post ...

Ids are whole numbers; pairs have no times and no features. Lines that mean nothing are refused with their number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.published.lines import Line, read_lines, refuse

Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """N pairs as rows into the ids of their split: users [N] and posts [N]."""

    users: Int64s
    posts: Int64s

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "Pairs":
        return Pairs(self.users[rows], self.posts[rows])

    def by_user(self, num_users: int) -> tuple[Int64s, Int64s]:
        """Where each user's posts begin [U + 1], and the posts in order of users [N]."""
        starts = np.concatenate([[0], np.cumsum(np.bincount(self.users, minlength=num_users))])
        return starts.astype(np.int64), self.posts[np.argsort(self.users, kind="stable")]


@dataclass(frozen=True)
class PairSplit:
    """A split with users and posts numbered from 0 in order of their ids."""

    user_ids: Int64s
    post_ids: Int64s
    train: Pairs
    test: Pairs

    @property
    def num_users(self) -> int:
        return len(self.user_ids)

    @property
    def num_posts(self) -> int:
        return len(self.post_ids)

    def for_tuning(self, seed: int, share: float = 0.1) -> "PairSplit":
        """The train part alone, split again at random: what settings may be chosen on."""
        is_held = np.random.default_rng(seed).random(len(self.train)) < share
        return PairSplit(self.user_ids, self.post_ids, self.train.take(~is_held), self.train.take(is_held))


def read_pair_split(folder: Path) -> PairSplit:
    """The split in `folder`. Raises InputError, naming file and line, for what is missing, malformed or unknown."""
    train, test = read_lines(folder / "train.txt"), read_lines(folder / "test.txt")
    refuse(
        line.fault(f"user {line.user} names a post twice")
        for line in (*train, *test)
        if len(set(line.posts)) < len(line.posts)
    )
    users = {line.user for line in train}
    posts = {post for line in train for post in line.posts}
    refuse(
        line.fault(f"{what} {unknown} is in no train line")
        for line in test
        for what, those in (("user", {line.user} - users), ("post", set(line.posts) - posts))
        for unknown in sorted(those)
    )
    user_ids, post_ids = np.array(sorted(users)), np.array(sorted(posts))
    return PairSplit(user_ids, post_ids, _pairs(train, user_ids, post_ids), _pairs(test, user_ids, post_ids))


def _pairs(lines: Sequence[Line], user_ids: Int64s, post_ids: Int64s) -> Pairs:
    users = np.repeat([line.user for line in lines], [len(line.posts) for line in lines])
    posts = np.concatenate([line.posts for line in lines])
    return Pairs(np.searchsorted(user_ids, users), np.searchsorted(post_ids, posts))
