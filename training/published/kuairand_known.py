"""Up to when each KuaiRand row may know others.

The test days are frozen for each user, so the rows that teach are too: a user's latest history rows know those before
them and none of one another, dated rows know the history. A user's running rate rises after what was liked by chance
and falls after what was not: within a user it ranks the wrong way round, and who learns from it learns to correct that.
Legend: N rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.published.kuairand_log import HEADS, KuaiRand
from training.published.rates import Sums, fold_of, sums_before, sums_of_others

HISTORY_ROWS = 12
"""History rows of each user, the latest, that are learnt from; all of them feed rates and lists."""


@dataclass(frozen=True)
class Known:
    """The rows with the instants up to which each may know others."""

    data: KuaiRand
    as_of: NDArray[np.int64]
    own_as_of: NDArray[np.int64]
    """The same for the own user's history: before all rows of the user that are learnt from or judged together."""
    folds: NDArray[np.int64]
    is_teaching: NDArray[np.bool_]
    """Rows from before the first test day."""

    def label(self, head: str) -> NDArray[np.float32]:
        return self.data.labels[:, HEADS.index(head)]

    def of_user(self, keys: NDArray[np.int64], values: NDArray[Any], *, is_running: bool = False) -> Sums:
        """Sums over the own user's rows before its block, running ones over all before the row's own midnight.

        `keys` number something within a user from 0.
        """
        as_of = self.as_of if is_running else self.own_as_of
        return sums_before(self.data.users * (int(keys.max()) + 1) + keys, self.data.hour, values, as_of)

    def of_posts(self, keys: NDArray[np.int64], values: NDArray[Any]) -> Sums:
        """Sums over all users' earlier rows; for a history row over other users' history."""
        is_history = self.data.is_history
        dated = sums_before(keys, np.where(is_history, -1, self.data.hour), values, self.as_of)
        others = sums_of_others(keys[is_history], self.folds[is_history], values[is_history])
        count, total = dated.count.copy(), dated.total.copy()
        count[is_history], total[is_history] = others.count, others.total
        return Sums(count, total)


def known_before(data: KuaiRand, first_test_day: int) -> Known:
    """What each row may know: nothing of the test days, and of its own user nothing of the rows learnt from with it."""
    midnight = np.minimum(data.day, first_test_day) * 24
    is_teaching = data.day < first_test_day
    is_block = data.is_history & (places_from_end(data) < HISTORY_ROWS)
    block_start = np.zeros(len(data.user_ids), dtype=np.int64)
    np.minimum.at(block_start, data.users[is_block], data.hour[is_block])
    own = np.where(data.is_history, data.hour, np.where(is_teaching, 0, midnight))
    return Known(
        data,
        as_of=np.where(data.is_history, data.hour, midnight),
        own_as_of=np.where(is_block, block_start[data.users], own),
        folds=fold_of(data.user_ids[data.users]),
        is_teaching=is_teaching,
    )


def places_from_end(data: KuaiRand) -> NDArray[np.int64]:
    """0 for the latest history row of a user, 1 for the one before, ...; of the history rows, which come first, [N]."""
    count = int(data.is_history.sum())
    users = data.users[:count]
    ends = np.cumsum(np.bincount(users, minlength=len(data.user_ids)))
    places = np.zeros(len(data.users), dtype=np.int64)
    order = np.argsort(users, kind="stable")
    places[order] = ends[users[order]] - 1 - np.arange(count)
    return places
