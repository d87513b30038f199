"""What a user asked of their feed: the snapshot's facts with the journal's newer ones on top."""

from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from events.journal import MUTE_TOPIC, Journal, JournalEvent
from serving.funnel.state import Controls
from serving.snapshot import UNKNOWN, Snapshot


class JournalControls:
    """Reads both; an acknowledged hide or block counts from the next request on."""

    def __init__(self, snapshot: Snapshot, journal: Journal | None, seen_days: float) -> None:
        self._snapshot = snapshot
        self._journal = journal
        self._seen_days = seen_days

    def read(self, user_id: int, user_row: int, at: datetime) -> Controls:
        """Raises StoreUnavailableError where the journal does not answer."""
        users, catalogue = self._snapshot.users, self._snapshot.catalogue
        elapsed = at.timestamp() - self._snapshot.as_of
        is_recent = users.seen.weights_of(user_row) + elapsed <= self._seen_days * 86_400.0
        seen = users.seen.list_of(user_row)[is_recent]
        hidden = users.hidden.list_of(user_row)
        blocked = frozenset(users.blocked.list_of(user_row).tolist())
        followed = frozenset(users.followed.list_of(user_row).tolist())
        if self._journal is None:
            return Controls(seen, hidden, blocked, followed)
        since = at - timedelta(days=self._seen_days)
        own = self._journal.user_controls(user_id)
        blocked_by_post = catalogue.creator_ids[self._rows(own.blocked_post_ids)].tolist()
        return Controls(
            seen_rows=np.union1d(seen, self._rows(self._journal.seen(user_id, since))),
            hidden_rows=np.union1d(hidden, self._rows(own.hidden_post_ids)),
            blocked_creator_ids=blocked | own.blocked_creator_ids | frozenset(blocked_by_post),
            followed_creator_ids=(followed - own.unfollowed_creator_ids) | own.followed_creator_ids,
            muted_topic_ids=self._muted(own.topic_wishes),
            recent=self._recent(self._journal.recent_engagements(user_id, since)),
        )

    def _muted(self, wishes: tuple[tuple[str, int], ...]) -> frozenset[int]:
        """Topics that are muted after all wishes; a post without a known topic names none."""
        rows = self._snapshot.catalogue.rows_of(np.array([post_id for _, post_id in wishes], dtype=np.int64))
        muted: set[int] = set()
        for (kind, _), row in zip(wishes, rows.tolist(), strict=True):
            topic = int(self._snapshot.catalogue.topic_ids[row]) if row != UNKNOWN else UNKNOWN
            (muted.add if kind == MUTE_TOPIC else muted.discard)(topic)
        return frozenset(muted - {UNKNOWN})

    def _recent(self, events: list[JournalEvent]) -> tuple[tuple[int, str, float], ...]:
        post_ids = np.array([UNKNOWN if e.post_id is None else e.post_id for e in events], dtype=np.int64)
        rows = self._snapshot.catalogue.rows_of(post_ids)
        return tuple(
            (row, event.kind, event.event_at.timestamp())
            for row, event in zip(rows.tolist(), events, strict=True)
            if row != UNKNOWN
        )

    def _rows(self, post_ids: frozenset[int]) -> NDArray[np.int64]:
        """Catalogue rows of the posts that are in it."""
        rows = self._snapshot.catalogue.rows_of(np.fromiter(post_ids, dtype=np.int64, count=len(post_ids)))
        return np.asarray(rows[rows != UNKNOWN])
