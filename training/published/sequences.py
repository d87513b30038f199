"""Leave-one-out on sequences: `user post post ...` in order of time, the last post for the test, the one before
for validation, every other post a candidate but those of the user's history.

HR@K is the share of users whose test post is among the first K; NDCG@K is 1 / log2(place + 1) of it, else 0.
Source: Kang and McAuley, SASRec, 2018; full ranking with history left out as in Zhou et al., S3-Rec, 2020.
Legend: U users, L posts of a sequence, P posts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.logs import logger
from training.published.lines import Line, read_lines, refuse

Int64s = NDArray[np.int64]
MIN_POSTS = 3
USER_BATCH = 1_024


@dataclass(frozen=True)
class Sequences:
    """Posts numbered from 1 in order of their ids; 0 pads at the end."""

    post_ids: Int64s
    posts: Int64s
    """[U, L], oldest first."""
    lengths: Int64s
    """[U]"""

    def but_last(self, count: int) -> Int64s:
        """The sequences without their last `count` posts, [U, L]."""
        places = np.arange(self.posts.shape[1])
        return np.where(places < (self.lengths - count)[:, None], self.posts, 0)

    def last(self, count: int) -> Int64s:
        """The post at place `count` from the end, 1 the last, [U]."""
        return self.posts[np.arange(len(self.posts)), self.lengths - count]


def read_sequences(path: Path, min_posts: int = MIN_POSTS) -> Sequences:
    """The sequences of a file. Raises InputError, naming file and line, for what is malformed or too short."""
    lines = read_lines(path)
    refuse(
        line.fault(f"user {line.user} has {len(line.posts)} posts; leave-one-out needs at least {min_posts} here")
        for line in lines
        if len(line.posts) < min_posts
    )
    lengths = np.array([len(line.posts) for line in lines])
    flat = np.concatenate([line.posts for line in lines])
    _warn_of_unseen(path, lines)
    post_ids, numbers = np.unique(flat, return_inverse=True)
    posts = np.zeros((len(lines), lengths.max()), dtype=np.int64)
    posts[np.arange(posts.shape[1]) < lengths[:, None]] = numbers + 1
    return Sequences(post_ids, posts, lengths)


def _warn_of_unseen(path: Path, lines: Sequence[Line]) -> None:
    """Published files hold such users, and the protocol counts them: nothing can rank what it never met."""
    seen = set(np.concatenate([line.posts[:-1] for line in lines]).tolist())
    unseen = [line for line in lines if int(line.posts[-1]) not in seen]
    if unseen:
        logger("training").warning(
            "last posts that stand nowhere else; they count as missed",
            file=path.name, users=len(unseen), first_line=unseen[0].number,
        )  # fmt: skip


def leave_one_out(
    scores: Callable[[slice], NDArray[np.float32]], history_UL: Int64s, wanted_U: Int64s, k: int = 10
) -> dict[str, float]:
    """`hr@k` and `ndcg@k`; `scores` gives [B, P] for a range of users. Equal scores rank the wanted post last.

    Raises ValueError for a wanted post without a finite score.
    """
    places = np.empty(len(wanted_U), dtype=np.int64)
    for start in range(0, len(wanted_U), USER_BATCH):
        rows = slice(start, min(start + USER_BATCH, len(wanted_U)))
        scores_BP = np.pad(scores(rows), ((0, 0), (1, 0)), constant_values=-np.inf)  # column 0 stands for padding
        wanted_B1 = wanted_U[rows, None]
        own_B1 = np.take_along_axis(scores_BP, wanted_B1, axis=1)
        if not np.isfinite(own_B1).all():
            raise ValueError(f"scores of the wanted posts of users {rows.start} to {rows.stop} are not all finite")
        np.put_along_axis(scores_BP, history_UL[rows], -np.inf, axis=1)
        np.put_along_axis(scores_BP, wanted_B1, -np.inf, axis=1)
        places[rows] = (scores_BP >= own_B1).sum(1)
    is_hit = places < k
    return {
        f"hr@{k}": float(is_hit.mean()),
        f"ndcg@{k}": float(np.where(is_hit, 1.0 / np.log2(places + 2.0), 0.0).mean()),
    }
