"""The journal: events posted over HTTP, durable before they are acknowledged, one row per event id.

A SQLite file in WAL mode with full synchronisation, so that a process killed right after `append` returned
loses nothing, and a batch sent twice counts once. Several processes may hold it open at the same time.
"""

import json
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from core.ids import MAX_ID
from core.schema import ENGAGEMENT_KINDS
from events.sqlite_errors import mapped_errors

IMPRESSION = "impression"
UNFOLLOW = "unfollow"
JOURNAL_KINDS = (IMPRESSION, *ENGAGEMENT_KINDS, UNFOLLOW)
"""Everything the journal keeps. A `follow` with a post is also an engagement with it."""

_HIDING = ("hide", "see_less", "report")
_CONTROL = (*_HIDING, "block", "follow", UNFOLLOW)
_BUSY_SECONDS = 10.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    user_id INTEGER NOT NULL,
    post_id INTEGER,
    creator_id INTEGER,
    event_at INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    request_id INTEGER,
    impression_id TEXT,
    surface TEXT,
    position INTEGER,
    served_at INTEGER,
    sources TEXT NOT NULL,
    propensity REAL,
    spec_version TEXT,
    model_versions TEXT,
    dwell_seconds REAL
);
CREATE INDEX IF NOT EXISTS events_by_user ON events (user_id, kind, event_at);
"""


@dataclass(frozen=True)
class JournalEvent:
    """One thing a user saw or did. Instants are aware; `sources` to `model_versions` are of the impression."""

    event_id: str
    kind: str
    user_id: int
    event_at: datetime
    received_at: datetime
    post_id: int | None = None
    creator_id: int | None = None
    request_id: int | None = None
    impression_id: str | None = None
    surface: str | None = None
    position: int | None = None
    served_at: datetime | None = None
    sources: tuple[str, ...] = ()
    propensity: float | None = None
    spec_version: str | None = None
    model_versions: str | None = None
    dwell_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in JOURNAL_KINDS:
            raise ValueError(f"event {self.event_id}: kind {self.kind!r} is none of {', '.join(JOURNAL_KINDS)}")
        for name in ("user_id", "post_id", "creator_id", "request_id"):
            number = getattr(self, name)
            if number is not None and not 0 <= number <= MAX_ID:
                raise ValueError(f"event {self.event_id}: {name} {number} is not within 0 and 2^63 - 1")
        if not self.event_id:
            raise ValueError("event_id is empty; every event needs an id of its own")
        if self.kind == IMPRESSION and self.surface is None:
            raise ValueError(f"event {self.event_id}: an impression needs its surface")
        if self.kind in ("follow", UNFOLLOW, "block"):
            if self.post_id is None and self.creator_id is None:
                raise ValueError(f"event {self.event_id}: {self.kind} needs a creator_id or a post_id")
        elif self.post_id is None:
            raise ValueError(f"event {self.event_id}: {self.kind} needs a post_id")
        if self.kind == UNFOLLOW and self.creator_id is None:
            raise ValueError(f"event {self.event_id}: unfollow needs a creator_id")


_COLUMNS = tuple(JournalEvent.__dataclass_fields__)
_INSTANTS = ("event_at", "received_at", "served_at")
_INSERT = (
    f"INSERT INTO events ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "
    "ON CONFLICT (event_id) DO NOTHING"
)
_SELECT = f"SELECT place, {', '.join(_COLUMNS)} FROM events"


@dataclass(frozen=True)
class JournalReport:
    """How many events of a batch are new and durable, and how many were there already."""

    accepted: int
    duplicates: int


@dataclass(frozen=True)
class UserControls:
    """What one user asked of their feed, up to the last acknowledged event."""

    hidden_post_ids: frozenset[int] = frozenset()
    see_less_post_ids: frozenset[int] = frozenset()
    blocked_creator_ids: frozenset[int] = frozenset()
    blocked_post_ids: frozenset[int] = frozenset()
    followed_creator_ids: frozenset[int] = frozenset()
    unfollowed_creator_ids: frozenset[int] = frozenset()


class Journal:
    """One open journal file; threads of a process may share it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self.is_failing = False
        """Whether the last `append` could not keep its events."""
        with mapped_errors("journal", self.path):
            self._writer = self._connect()
            self._writer.executescript(_SCHEMA)
            self._reader = self._connect()

    def append(self, events: Sequence[JournalEvent]) -> JournalReport:
        """What of the batch is new. All of it is on disk when this returns; nothing of it when this raises."""
        rows = [_to_row(event) for event in events]
        with self._writing, mapped_errors("journal", self.path):
            self.is_failing = True
            before = self._writer.total_changes
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                self._writer.executemany(_INSERT, rows)
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise
            accepted = self._writer.total_changes - before
            self.is_failing = False
        return JournalReport(accepted, len(rows) - accepted)

    def user_controls(self, user_id: int) -> UserControls:
        """What the user hid, blocked, followed and unfollowed; a later follow or unfollow overrules an earlier."""
        rows = self._read(
            f"SELECT kind, post_id, creator_id FROM events WHERE user_id = ? AND kind IN {_CONTROL} ORDER BY place",
            (user_id,),
        )
        posts: dict[str, set[int]] = {kind: set() for kind in _CONTROL}
        creators: dict[str, set[int]] = {kind: set() for kind in _CONTROL}
        opposite = {"follow": UNFOLLOW, UNFOLLOW: "follow"}
        for kind, post_id, creator_id in rows:
            if post_id is not None:
                posts[kind].add(post_id)
            if creator_id is not None:
                creators[kind].add(creator_id)
                if kind in opposite:
                    creators[opposite[kind]].discard(creator_id)
        return UserControls(
            hidden_post_ids=frozenset().union(*(posts[kind] for kind in _HIDING)),
            see_less_post_ids=frozenset(posts["see_less"]),
            blocked_creator_ids=frozenset(creators["block"]),
            blocked_post_ids=frozenset(posts["block"]),
            followed_creator_ids=frozenset(creators["follow"]),
            unfollowed_creator_ids=frozenset(creators[UNFOLLOW]),
        )

    def seen(self, user_id: int, since: datetime) -> frozenset[int]:
        """Ids of posts the user saw at or after `since`."""
        rows = self._read(
            "SELECT DISTINCT post_id FROM events WHERE user_id = ? AND kind = ? AND event_at >= ?",
            (user_id, IMPRESSION, _micros(since)),
        )
        return frozenset(row[0] for row in rows)

    def recent_engagements(self, user_id: int, since: datetime, limit: int = 50) -> list[JournalEvent]:
        """The user's last engagements with posts at or after `since`, newest first."""
        rows = self._read(
            f"{_SELECT} WHERE user_id = ? AND kind IN {ENGAGEMENT_KINDS} AND event_at >= ? AND post_id IS NOT NULL "
            "ORDER BY event_at DESC, place DESC LIMIT ?",
            (user_id, _micros(since), limit),
        )
        return [_from_row(row)[1] for row in rows]

    def since(self, place: int, limit: int = 50_000) -> list[tuple[int, JournalEvent]]:
        """At most `limit` events after `place`, each with its own place, in order of acknowledgement."""
        rows = self._read(f"{_SELECT} WHERE place > ? ORDER BY place LIMIT ?", (place, limit))
        return [_from_row(row) for row in rows]

    def impression_times(self, impression_ids: Sequence[str]) -> dict[str, datetime]:
        """When each of these impressions was seen, for those that the journal holds."""
        rows = self._read(
            "SELECT event_id, event_at FROM events WHERE kind = ? AND event_id IN (SELECT value FROM json_each(?))",
            (IMPRESSION, json.dumps(list(impression_ids))),
        )
        return {event_id: _EPOCH + timedelta(microseconds=micros) for event_id, micros in rows}

    def prune(self, place: int, keep: timedelta) -> int:
        """Number of events dropped: up to `place`, and received more than `keep` before the newest.

        What a user asked of their feed (hide, block, follow, ...) is never dropped.
        """
        query = (
            f"DELETE FROM events WHERE place <= ? AND kind NOT IN {_CONTROL} "
            "AND received_at < (SELECT max(received_at) FROM events) - ?"
        )
        with self._writing, mapped_errors("journal", self.path):
            return self._writer.execute(query, (place, keep // timedelta(microseconds=1))).rowcount

    def close(self) -> None:
        """Ends both connections."""
        self._writer.close()
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def _read(self, query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        with self._reading, mapped_errors("journal", self.path):
            return self._reader.execute(query, values).fetchall()


def _to_row(event: JournalEvent) -> tuple[object, ...]:
    values: dict[str, object] = {name: getattr(event, name) for name in _COLUMNS}
    for name in _INSTANTS:
        at = getattr(event, name)
        values[name] = _micros(at) if at is not None else None
    values["sources"] = json.dumps(event.sources)
    return tuple(values.values())


def _from_row(row: tuple[Any, ...]) -> tuple[int, JournalEvent]:
    place, *cells = row
    values: dict[str, Any] = dict(zip(_COLUMNS, cells, strict=True))
    for name in _INSTANTS:
        micros = values[name]
        values[name] = _EPOCH + timedelta(microseconds=micros) if micros is not None else None
    values["sources"] = tuple(json.loads(values["sources"]))
    return place, JournalEvent(**values)


def _micros(at: datetime) -> int:
    """Microseconds since 1970. Raises ValueError for an instant without a zone."""
    if at.tzinfo is None:
        raise ValueError(f"{at} has no zone; instants are aware UTC")
    return (at - _EPOCH) // timedelta(microseconds=1)
