"""Up to when each KuaiRand row may know others.

The test days are frozen for each user, so the rows that teach are too: a user's history is learnt from in blocks, each
of which knows the rest of it and none of its own rows, and dated rows know the history. A user's running rate rises
after what was liked by chance and falls after what was not: within a user it ranks the wrong way round, and who learns
from it learns to correct that.
Legend: N rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.published.kuairand_log import HEADS, KuaiRand
from training.published.rates import Sums, fold_of, sums_before, sums_of_others

BLOCK_ROWS = 12
"""History rows of a user that know the same, from the latest back."""


@dataclass(frozen=True)
class Known:
    """The rows with the instants up to which each may know others."""

    data: KuaiRand
    as_of: NDArray[np.int64]
    own_as_of: NDArray[np.int64]
    """The same for the own user's rows: those of a user that are judged together share it."""
    block: tuple[NDArray[np.int64], NDArray[np.int64]]
    """Hours from which and until which a history row knows nothing of its user, its block; the same where there is
    none."""
    folds: NDArray[np.int64]
    is_teaching: NDArray[np.bool_]
    """Rows from before the first test day."""

    def label(self, head: str) -> NDArray[np.float32]:
        return self.data.labels[:, HEADS.index(head)]

    def of_user(self, keys: NDArray[np.int64], values: NDArray[Any], *, is_running: bool = False) -> Sums:
        """Sums over the own user's rows outside the block, running ones over all before the row's own midnight.

        `keys` number something within a user from 0.
        """
        keys = self.data.users * (int(keys.max()) + 1) + keys
        if is_running:
            return sums_before(keys, self.data.hour, values, self.as_of)
        known, before, until = (sums_before(keys, self.data.hour, values, h) for h in (self.own_as_of, *self.block))
        return Sums(known.count - until.count + before.count, known.total - until.total + before.total)

    def of_posts(self, keys: NDArray[np.int64], values: NDArray[Any]) -> Sums:
        """Sums over all users' earlier rows; for a history row over other users' history."""
        is_history = self.data.is_history
        dated = sums_before(keys, np.where(is_history, -1, self.data.hour), values, self.as_of)
        others = sums_of_others(keys[is_history], self.folds[is_history], values[is_history])
        count, total = dated.count.copy(), dated.total.copy()
        count[is_history], total[is_history] = others.count, others.total
        return Sums(count, total)


def known_before(data: KuaiRand, first_test_day: int) -> Known:
    """What each row may know: nothing of the test days, and of its own user no row of its block."""
    midnight = np.minimum(data.day, first_test_day) * 24
    is_teaching = data.day < first_test_day
    return Known(
        data,
        as_of=np.where(data.is_history, data.hour, midnight),
        own_as_of=np.where(is_teaching, 0, midnight),
        block=_blocks(data),
        folds=fold_of(data.user_ids[data.users]),
        is_teaching=is_teaching,
    )


def _blocks(data: KuaiRand) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hours at which each history row's block begins and ends; of no length at 0 for a dated row."""
    first, last = np.zeros((2, len(data.users)), dtype=np.int64)
    places = places_from_end(data)[data.is_history] // BLOCK_ROWS
    _, block = np.unique(data.users[data.is_history] * (places.max(initial=0) + 1) + places, return_inverse=True)
    hour = data.hour[data.is_history]
    by_block = np.lexsort((hour, block))
    starts = np.flatnonzero(np.diff(block[by_block], prepend=-1))
    ends = np.append(starts[1:], len(block)) - 1
    first[data.is_history] = hour[by_block[starts]][block]
    last[data.is_history] = hour[by_block[ends]][block] + 1
    return first, last


def places_from_end(data: KuaiRand) -> NDArray[np.int64]:
    """0 for the latest history row of a user, 1 for the one before, ...; of the history rows, which come first, [N]."""
    count = int(data.is_history.sum())
    users = data.users[:count]
    ends = np.cumsum(np.bincount(users, minlength=len(data.user_ids)))
    places = np.zeros(len(data.users), dtype=np.int64)
    order = np.argsort(users, kind="stable")
    places[order] = ends[users[order]] - 1 - np.arange(count)
    return places
