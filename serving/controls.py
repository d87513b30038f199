"""What a user asked of their feed: the snapshot's facts with the journal's newer ones on top."""

from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from events.journal import MUTE_TOPIC, Journal, JournalEvent
from serving.funnel.state import Controls
from serving.live.seen import SeenFilter, SeenPosts, matcher
from serving.live.view import LiveSnapshot
from serving.snapshot import UNKNOWN, Snapshot

SEEN_BATCH = 4_096


class JournalControls:
    """Reads both; an acknowledged hide or block counts from the next request on."""

    def __init__(self, snapshot: Snapshot, journal: Journal | None, seen_days: float) -> None:
        # A live snapshot's is shared by all who read it: a request asks the journal for what is new only.
        self._seen = snapshot.seen if isinstance(snapshot, LiveSnapshot) else SeenFilter()
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
        if self._journal is None or not self._journal.knows(user_id):
            return Controls(seen, hidden, blocked, followed)
        since = at - timedelta(days=self._seen_days)
        own = self._journal.user_controls(user_id)
        blocked |= frozenset(catalogue.creator_ids[self._rows(own.blocked_post_ids)].tolist())
        hidden = np.setdiff1d(hidden, self._rows(own.unhidden_post_ids))
        own_seen = self._own_seen(self._journal, user_id)
        return Controls(
            seen_rows=np.union1d(seen, own_seen.recent(since.timestamp())),
            hidden_rows=np.union1d(hidden, self._rows(own.hidden_post_ids)),
            blocked_creator_ids=(blocked - own.unblocked_creator_ids) | own.blocked_creator_ids,
            followed_creator_ids=(followed - own.unfollowed_creator_ids) | own.followed_creator_ids,
            muted_topic_ids=self._muted(own.topic_wishes),
            recent=self._recent(self._journal.recent_engagements(user_id, since)),
            seen_long_ago=matcher(own_seen.faded(since.timestamp())),
        )

    def _own_seen(self, journal: Journal, user_id: int) -> SeenPosts:
        """What the journal says that the user saw, taken up to its last event."""
        seen = self._seen.of(user_id)
        while events := journal.seen_after(user_id, seen.place, SEEN_BATCH):
            places, post_ids, at = (np.array(column) for column in zip(*events, strict=True))
            self._seen.add(seen, places, self._snapshot.catalogue.rows_of(post_ids), at)
        return seen

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
