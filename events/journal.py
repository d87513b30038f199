"""The journal: events and writes that came over HTTP, durable before they are acknowledged, one row per event id.

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
from typing import Any, NamedTuple, Self

from core.ids import MAX_ID
from core.schema import ENGAGEMENT_KINDS
from events.sqlite_errors import mapped_errors

IMPRESSION = "impression"
UNFOLLOW, UNHIDE, UNBLOCK = "unfollow", "unhide", "unblock"
TOPIC_WISHES = MUTE_TOPIC, UNMUTE_TOPIC = ("mute_topic", "unmute_topic")
"""About the topic of the post they name."""
JOURNAL_KINDS = (IMPRESSION, *ENGAGEMENT_KINDS, UNFOLLOW, UNHIDE, UNBLOCK, *TOPIC_WISHES)
"""What users see and do. A `follow` with a post is also an engagement with it."""

ENTITIES = ("user", "creator", "post")
PUTS = tuple(f"put_{entity}" for entity in ENTITIES)
DELETES = tuple(f"delete_{entity}" for entity in ENTITIES)
WRITE_KINDS = (*PUTS, *DELETES)
"""Writes of the catalogue: a put carries the whole entity as JSON, a delete nothing but its id."""

NO_USER = -1
"""User of a write that is about a post or a creator."""

_HIDING = ("hide", "see_less", "report")
_LIFTING = {UNFOLLOW: ("follow",), UNHIDE: _HIDING, UNBLOCK: ("block",), "follow": (UNFOLLOW,), "block": (UNBLOCK,)}
_LIFTING |= dict.fromkeys(_HIDING, (UNHIDE,))
"""What each wish takes back."""
_CONTROL = (*_HIDING, "block", "follow", UNFOLLOW, UNHIDE, UNBLOCK, *TOPIC_WISHES)
_KEPT = (*_CONTROL, *WRITE_KINDS)
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
    dwell_seconds REAL,
    payload TEXT
);
CREATE INDEX IF NOT EXISTS events_by_user ON events (user_id, kind, event_at);
CREATE INDEX IF NOT EXISTS seen_by_place ON events (user_id, place) WHERE kind = 'impression';
"""
_WRITES = (
    f"CREATE INDEX IF NOT EXISTS writes ON events (kind, user_id, creator_id, post_id) WHERE kind IN {WRITE_KINDS};"
)


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
    payload: str | None = None
    """The entity that a put writes, as JSON."""

    def __post_init__(self) -> None:
        if self.kind not in JOURNAL_KINDS + WRITE_KINDS:
            raise ValueError(f"event {self.event_id}: kind {self.kind!r} is none of {', '.join(JOURNAL_KINDS)}")
        for name in ("user_id", "post_id", "creator_id", "request_id"):
            number = getattr(self, name)
            is_absent = number is None or (name == "user_id" and number == NO_USER and self.kind in WRITE_KINDS)
            if not is_absent and not 0 <= number <= MAX_ID:
                raise ValueError(f"event {self.event_id}: {name} {number} is not within 0 and 2^63 - 1")
        if not self.event_id:
            raise ValueError("event_id is empty; every event needs an id of its own")
        if self.kind in WRITE_KINDS:
            if (self.kind in PUTS) != (self.payload is not None) or self.entity_id < 0:
                raise ValueError(f"event {self.event_id}: {self.kind} needs an id, and a payload only if it is a put")
            return
        if self.kind == IMPRESSION and self.surface is None:
            raise ValueError(f"event {self.event_id}: an impression needs its surface")
        if self.kind in ("follow", UNFOLLOW, "block", UNBLOCK):
            if self.post_id is None and self.creator_id is None:
                raise ValueError(f"event {self.event_id}: {self.kind} needs a creator_id or a post_id")
        elif self.post_id is None:
            raise ValueError(f"event {self.event_id}: {self.kind} needs a post_id")
        if self.kind in (UNFOLLOW, UNBLOCK) and self.creator_id is None:
            raise ValueError(f"event {self.event_id}: {self.kind} needs a creator_id")

    @property
    def entity_id(self) -> int:
        """Id of what a write is about, -1 where it is missing."""
        number = getattr(self, f"{self.kind.partition('_')[2]}_id")
        return -1 if number is None else int(number)


_COLUMNS = tuple(JournalEvent.__dataclass_fields__)
_INSTANTS = ("event_at", "received_at", "served_at")
_INSERT = (
    f"INSERT INTO events ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "
    "ON CONFLICT (event_id) DO NOTHING"
)
_SELECT = f"SELECT place, {', '.join(_COLUMNS)} FROM events"
_SINCE_DELETION = "place > coalesce((SELECT max(place) FROM events WHERE user_id = ? AND kind = 'delete_user'), 0)"


class TailEvent(NamedTuple):
    """What follows the journal reads of an event. `event_at` is in microseconds since 1970."""

    place: int
    kind: str
    user_id: int
    post_id: int | None
    creator_id: int | None
    event_at: int
    payload: str | None


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
    unhidden_post_ids: frozenset[int] = frozenset()
    unblocked_creator_ids: frozenset[int] = frozenset()
    topic_wishes: tuple[tuple[str, int], ...] = ()
    """Kind and post of each wish about a topic, oldest first."""


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
            if "payload" not in {row[1] for row in self._writer.execute("PRAGMA table_info(events)")}:
                self._add_payload()
            self._writer.executescript(_WRITES)
            self._reader = self._connect()

    def append(self, events: Sequence[JournalEvent]) -> JournalReport:
        """What of the batch is new. All of it is on disk when this returns; nothing of it when this raises."""
        rows = [_to_row(event) for event in events]
        with self._writing, mapped_errors("journal", self.path):
            before = self._writer.total_changes
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                self._writer.executemany(_INSERT, rows)
                self._writer.execute("COMMIT")
            except BaseException:
                self.is_failing = True
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise
            accepted = self._writer.total_changes - before
            self.is_failing = False
        return JournalReport(accepted, len(rows) - accepted)

    def knows(self, user_id: int) -> bool:
        """Whether there is any event of the user."""
        return bool(self._read("SELECT 1 FROM events WHERE user_id = ? LIMIT 1", (user_id,)))

    def user_controls(self, user_id: int) -> UserControls:
        """What the user hid, blocked, followed and took back; a later wish overrules an earlier opposite one.

        Nothing from before the user was deleted counts.
        """
        rows = self._read(
            f"SELECT kind, post_id, creator_id FROM events WHERE user_id = ? AND kind IN {_CONTROL} "
            f"AND {_SINCE_DELETION} ORDER BY place",
            (user_id, user_id),
        )
        posts: dict[str, set[int]] = {kind: set() for kind in _CONTROL}
        creators: dict[str, set[int]] = {kind: set() for kind in _CONTROL}
        for kind, post_id, creator_id in rows:
            if post_id is not None:
                posts[kind].add(post_id)
            if creator_id is not None:
                creators[kind].add(creator_id)
            for lifted in _LIFTING.get(kind, ()):
                posts[lifted].discard(post_id)
                creators[lifted].discard(creator_id)
        return UserControls(
            hidden_post_ids=frozenset().union(*(posts[kind] for kind in _HIDING)),
            see_less_post_ids=frozenset(posts["see_less"]),
            blocked_creator_ids=frozenset(creators["block"]),
            blocked_post_ids=frozenset(posts["block"]),
            followed_creator_ids=frozenset(creators["follow"]),
            unfollowed_creator_ids=frozenset(creators[UNFOLLOW]),
            unhidden_post_ids=frozenset(posts[UNHIDE]),
            unblocked_creator_ids=frozenset(creators[UNBLOCK]),
            topic_wishes=tuple((kind, post_id) for kind, post_id, _ in rows if kind in TOPIC_WISHES),
        )

    def seen_after(self, user_id: int, place: int, limit: int) -> list[tuple[int, int, float]]:
        """Place, post id and unix seconds of the user's first `limit` impressions behind `place`, oldest first."""
        rows = self._read(
            "SELECT place, post_id, event_at FROM events WHERE user_id = ? AND place > ? AND kind = 'impression' "
            f"AND {_SINCE_DELETION} ORDER BY place LIMIT ?",
            (user_id, place, user_id, limit),
        )
        return [(found, post_id, micros / 1e6) for found, post_id, micros in rows]

    def recent_engagements(self, user_id: int, since: datetime, limit: int = 50) -> list[JournalEvent]:
        """The user's last engagements with posts at or after `since`, newest first."""
        rows = self._read(
            f"{_SELECT} WHERE user_id = ? AND kind IN {ENGAGEMENT_KINDS} AND event_at >= ? AND post_id IS NOT NULL "
            f"AND {_SINCE_DELETION} ORDER BY event_at DESC, place DESC LIMIT ?",
            (user_id, _micros(since), user_id, limit),
        )
        return [_from_row(row)[1] for row in rows]

    def since(self, place: int, limit: int = 50_000) -> list[tuple[int, JournalEvent]]:
        """At most `limit` events after `place`, each with its own place, in order of acknowledgement."""
        rows = self._read(f"{_SELECT} WHERE place > ? ORDER BY place LIMIT ?", (place, limit))
        return [_from_row(row) for row in rows]

    def tail(self, place: int, since: datetime | None = None, limit: int = 10_000) -> list[TailEvent]:
        """At most `limit` events after `place`; with `since` only writes and what happened from then on."""
        query = f"SELECT {', '.join(TailEvent._fields)} FROM events WHERE place > ?"
        query += "" if since is None else f" AND (event_at >= {_micros(since)} OR kind IN {WRITE_KINDS})"
        return [TailEvent(*row) for row in self._read(f"{query} ORDER BY place LIMIT ?", (place, limit))]

    def last_place(self) -> int:
        """Place of the newest event, 0 for none."""
        return int(self._read("SELECT coalesce(max(place), 0) FROM events", ())[0][0])

    def payload(self, place: int) -> str:
        """The entity that the put at `place` wrote, as JSON. Raises ValueError where there is none."""
        rows = self._read("SELECT payload FROM events WHERE place = ?", (place,))
        if not rows or rows[0][0] is None:
            raise ValueError(f"the journal holds no put at {place}")
        return str(rows[0][0])

    def wishing_users(self) -> list[int]:
        """Ids of the users who asked something of their feed, ascending."""
        return [
            row[0] for row in self._read(f"SELECT DISTINCT user_id FROM events WHERE kind IN {_CONTROL} ORDER BY 1", ())
        ]

    def deletions(self, until: int) -> list[tuple[str, int, bool]]:
        """Entity, id and whether it was written again, of everything deleted at or before `until`."""
        rows = self._read(
            f"SELECT kind, user_id, creator_id, post_id, max(place) FROM events INDEXED BY writes "
            f"WHERE kind IN {WRITE_KINDS} AND place <= ? GROUP BY kind, user_id, creator_id, post_id",
            (until,),
        )
        last: dict[str, dict[tuple[str, int], int]] = {"put": {}, "delete": {}}
        for kind, user_id, creator_id, post_id, place in rows:
            verb, _, entity = kind.partition("_")
            ids = {"user": user_id, "creator": creator_id, "post": post_id}
            key = (entity, ids[entity])
            last[verb][key] = max(place, last[verb].get(key, 0))
        return [(*key, last["put"].get(key, 0) > place) for key, place in last["delete"].items()]

    def deleted_users(self, place: int) -> list[tuple[int, int]]:
        """Place and user of every deletion of a user after `place`, in order."""
        rows = self._read(
            f"SELECT place, user_id FROM events INDEXED BY writes WHERE kind IN {WRITE_KINDS} "
            "AND kind = 'delete_user' AND place > ? ORDER BY place",
            (place,),
        )
        return [(found, user_id) for found, user_id in rows]

    def impression_times(self, impression_ids: Sequence[str]) -> dict[str, datetime]:
        """When each of these impressions was seen, for those that the journal holds."""
        rows = self._read(
            "SELECT event_id, event_at FROM events WHERE kind = ? AND event_id IN (SELECT value FROM json_each(?))",
            (IMPRESSION, json.dumps(list(impression_ids))),
        )
        return {event_id: _EPOCH + timedelta(microseconds=micros) for event_id, micros in rows}

    def prune(self, place: int, keep: timedelta) -> int:
        """Number of events dropped: up to `place`, and received more than `keep` before the newest.

        What a user asked of their feed (hide, block, follow, ...) and writes of the catalogue are never dropped.
        """
        query = (
            f"DELETE FROM events WHERE place <= ? AND kind NOT IN {_KEPT} "
            "AND received_at < (SELECT max(received_at) FROM events) - ?"
        )
        with self._writing, mapped_errors("journal", self.path):
            return self._writer.execute(query, (place, keep // timedelta(microseconds=1))).rowcount

    def close(self) -> None:
        """Ends both connections; who is still reading or writing ends first."""
        with self._writing:
            self._writer.close()
        with self._reading:
            self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _add_payload(self) -> None:
        """Brings a journal from before there were writes to today's columns."""
        try:
            self._writer.execute("ALTER TABLE events ADD COLUMN payload TEXT")
        except sqlite3.OperationalError as error:
            if "duplicate column" not in str(error):  # another process was first
                raise

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
