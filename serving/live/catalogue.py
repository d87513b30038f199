"""A catalogue with room: posts written after the snapshot take spare rows behind its own, in place.

Every array keeps its length for the life of the process, so a row or a mask that one thread holds stays valid while
another writes. A spare row is not recommendable until its post is written whole. One writer at a time, any readers.
"""

from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import StoreUnavailableError
from serving.snapshot import UNKNOWN, Catalogue, Rows, room_for

_ARRAYS = tuple(f.name for f in fields(Catalogue) if f.name not in ("languages", "countries", "media_types"))


class RoomError(StoreUnavailableError):
    """The spare rows are used up; the write is kept and serves from the next snapshot on."""


class LiveCatalogue(Catalogue):
    """`base` and room for posts to come."""

    def __init__(self, base: Catalogue, room: int | None = None) -> None:
        self.capacity = len(base) + (room_for(len(base)) if room is None else room)
        super().__init__(
            **{name: with_room(getattr(base, name), self.capacity) for name in _ARRAYS},
            languages=base.languages, countries=base.countries, media_types=base.media_types,
        )  # fmt: skip
        self.base = base
        self.num_rows = len(base)
        self.names: dict[int, tuple[str, str]] = {}
        """Outside ids of post and creator, by written row."""
        self.content_codes: dict[int, NDArray[np.int64]] = {}
        self._row_of: dict[int, int] = {}
        self._rows_by_creator: dict[int, set[int]] = {}
        self._is_written = np.zeros(self.capacity, dtype=np.bool_)
        self._changes: list[int] = []
        self._newest: Rows = np.empty(0, dtype=np.int64)
        self._is_sorted = True
        self._typical = float(np.median(base.popularity)) if len(base) else 0.0

    @property
    def num_spare(self) -> int:
        """Rows left for new posts."""
        return self.capacity - self.num_rows

    def rows_of(self, post_ids: NDArray[np.int64]) -> Rows:
        """Catalogue rows of the posts, UNKNOWN where there is none."""
        rows = self.base.rows_of(post_ids)
        if self._row_of:
            wanted = np.asarray(post_ids, dtype=np.int64)
            for place in np.flatnonzero(rows == UNKNOWN).tolist():
                rows[place] = self._row_of.get(int(wanted[place]), UNKNOWN)
        return rows

    @property
    def by_popularity(self) -> Rows:
        """Rows of the snapshot, best stored popularity first."""
        return self.base.by_popularity

    @property
    def by_age(self) -> Rows:
        """Rows of the snapshot that were not written since, newest first."""
        rows = self.base.by_age
        return rows[~self._is_written[rows]] if self._changes else rows

    @property
    def newest_rows(self) -> Rows:
        """Rows written since the snapshot and still there, newest first."""
        return self._newest

    def was_written(self, rows: Rows) -> NDArray[np.bool_]:
        """Whether each row was written since the snapshot, [N]."""
        return np.asarray(self._is_written[rows])

    def creator_rows(self, creator_id: int) -> Rows:
        """Rows of one creator's posts, newest first."""
        rows = self.base.creator_rows(creator_id)
        if not self._changes:
            return rows
        written = np.fromiter(self._rows_by_creator.get(creator_id, ()), dtype=np.int64)
        rows = np.concatenate([rows[~self._is_written[rows]], written])
        return rows[np.argsort(-self.created_at[rows], kind="stable")]

    def rows_by_creators(self, creator_ids: NDArray[np.int64]) -> tuple[Rows, NDArray[np.int64]]:
        """Rows of the creators' posts, and each one's place in `creator_ids`: in their order, newest first."""
        rows, owners = self.base.rows_by_creators(creator_ids)
        if not self._changes:
            return rows, owners
        is_held = ~self._is_written[rows]
        written = [self._rows_by_creator.get(creator_id, ()) for creator_id in creator_ids.tolist()]
        rows = np.concatenate([rows[is_held], np.array([row for own in written for row in own], dtype=np.int64)])
        owners = np.concatenate([owners[is_held], np.repeat(np.arange(len(written)), [len(own) for own in written])])
        order = np.lexsort((-self.created_at[rows], owners))
        return rows[order], owners[order]

    @property
    def written_creator_ids(self) -> list[int]:
        """Creators that posts written since the snapshot name."""
        return [creator_id for creator_id, rows in list(self._rows_by_creator.items()) if rows]

    def changes_since(self, version: int) -> tuple[int, Rows]:
        """The version of today, and the rows written since `version`."""
        today = len(self._changes)
        return today, np.unique(np.array(self._changes[version:today], dtype=np.int64))

    def code_of(self, vocabulary: str, word: str | None) -> int:
        """Code of a language or country; a word that is new gets the next one."""
        words: tuple[str, ...] = getattr(self, vocabulary)
        if word is None:
            return UNKNOWN
        if word not in words:
            object.__setattr__(self, vocabulary, (*words, word))
            return len(words)
        return words.index(word)

    def write(self, post_id: int, post: Mapping[str, Any]) -> int:
        """The row that now holds `post`, columns by their names in the log. Raises RoomError."""
        row = int(self.rows_of(np.array([post_id], dtype=np.int64))[0])
        is_new = row == UNKNOWN
        if is_new:
            if not self.num_spare:
                raise RoomError(
                    f"post {post_id}: no spare row left; run `make refresh` and `python -m serving snapshot`"
                )
            row = self.num_rows
            self.num_rows += 1
            self.popularity[row] = self._typical
            self.post_ids[row] = post_id
        elif self._is_written[row]:
            self._rows_by_creator.get(int(self.creator_ids[row]), set()).discard(row)
        self._fill(row, post)
        self.names[row] = (post["external_id"], post["creator_external_id"])
        self._rows_by_creator.setdefault(int(post["creator_id"]), set()).add(row)
        if is_new:
            self._row_of[post_id] = row
        self._note(row)
        return row

    def remove(self, row: int) -> None:
        """Takes the post out of every feed; its row stays known."""
        self.is_recommendable[row] = False
        if self._is_written[row]:
            self._rows_by_creator.get(int(self.creator_ids[row]), set()).discard(row)
        self._note(row)

    def settle(self) -> None:
        """Sorts what a batch of writes brought; call it at the end of the batch."""
        if self._is_sorted:
            return
        rows = np.flatnonzero(self._is_written & self.is_recommendable)
        self._newest = rows[np.argsort(-self.created_at[rows], kind="stable")]
        self._is_sorted = True

    def _fill(self, row: int, post: Mapping[str, Any]) -> None:
        self.is_recommendable[row] = False  # whoever reads meanwhile shall not show half a post
        self.creator_ids[row] = post["creator_id"]
        self.topic_ids[row] = post["topic_id"]
        self.language_codes[row] = self.code_of("languages", post["language"])
        self.country_codes[row] = self.code_of("countries", post["country"])
        self.media_codes[row] = self.media_types.index(post["media_type"])
        self.created_at[row] = datetime.fromisoformat(post["created_at"]).timestamp()
        duration, integrity = post["duration_seconds"], post["integrity_score"]
        self.duration_seconds[row] = np.nan if duration is None else duration
        self.integrity[row] = 1.0 if integrity is None else integrity
        self.content[row] = 0.0 if post["content_embedding"] is None else post["content_embedding"]
        self.content_codes[row] = np.array(post["content_codes"], dtype=np.int64)
        self.is_recommendable[row] = post["is_recommendable"]

    def _note(self, row: int) -> None:
        self._is_written[row] = True
        self._is_sorted = False
        self._changes.append(row)


def with_room(array: NDArray[Any], capacity: int) -> NDArray[Any]:
    """The array with rows of zeros up to `capacity`: the longer mapped one that it is a part of, else a copy."""
    whole = array.base
    if isinstance(whole, np.ndarray) and whole.shape == (capacity, *array.shape[1:]) and whole.dtype == array.dtype:
        return np.asarray(whole)
    longer = np.zeros((capacity, *array.shape[1:]), dtype=array.dtype)
    longer[: len(array)] = array
    return longer
