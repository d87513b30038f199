"""Users with room: those written after the snapshot take spare rows; a deleted one is unknown again."""

import numpy as np
from numpy.typing import NDArray

from serving.live.catalogue import RoomError, with_room
from serving.snapshot import UNKNOWN, Users, room_for


class LiveUsers(Users):
    """`base` and room for users to come. One writer at a time, any readers."""

    def __init__(self, base: Users) -> None:
        self.capacity = len(base.user_ids) + room_for(len(base.user_ids))
        super().__init__(
            base.user_ids, with_room(base.language_codes, self.capacity), with_room(base.country_codes, self.capacity),
            base.seen, base.hidden, base.blocked, base.followed,
        )  # fmt: skip
        self._num_rows = len(base.user_ids)
        self._row_of: dict[int, int] = {}

    def row_of(self, user_id: int) -> int:
        """Row of the user, UNKNOWN for one that nobody knows or that was deleted."""
        row = self._row_of.get(user_id)
        return super().row_of(user_id) if row is None else row

    def is_gone(self, user_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each user was deleted and has not come back, [N]."""
        return np.array([self._row_of.get(i, 0) == UNKNOWN for i in user_ids.tolist()], dtype=np.bool_)

    def write(self, user_id: int, language_code: int, country_code: int) -> None:
        """Profile of a user, known or new. Raises RoomError where a new one finds no room."""
        row = self.row_of(user_id)
        if row == UNKNOWN:
            if self._num_rows >= self.capacity:
                raise RoomError(
                    f"user {user_id}: no spare row left; run `make refresh` and `python -m serving snapshot`"
                )
            row = self._num_rows
            self._num_rows += 1
        self.language_codes[row], self.country_codes[row] = language_code, country_code
        self._row_of[user_id] = row

    def remove(self, user_id: int) -> None:
        """Forgets the user: profile, lists and what they saw."""
        self._row_of[user_id] = UNKNOWN
