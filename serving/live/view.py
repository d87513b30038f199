"""The live view: the snapshot with every journal event since on top. It can be made anew from both at any time."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime, timedelta
from threading import RLock

import numpy as np
from numpy.typing import NDArray

from core.clock import Clock
from core.logs import logger
from events.journal import DELETES, IMPRESSION, PUTS, Journal, TailEvent
from serving.live.catalogue import LiveCatalogue, RoomError
from serving.live.seen import SeenFilter
from serving.live.trending import LiveLists, Trending
from serving.live.users import LiveUsers
from serving.snapshot import UNKNOWN, Snapshot

TRENDING_WINDOW = timedelta(hours=48)
BATCH = 10_000
CLOCK_SLACK_SECONDS = 600.0
"""Clocks are put right by less than this every day."""

Key = tuple[str, int]
"""Entity (user, creator or post) and id."""


class LiveSnapshot(Snapshot):
    """A snapshot whose catalogue, users and trending lists follow the journal."""

    def __init__(self, base: Snapshot, room: int | None = None) -> None:
        given = {field.name: getattr(base, field.name) for field in fields(Snapshot)}
        self.live_catalogue = LiveCatalogue(base.catalogue, room)
        self.live_users = LiveUsers(base.users)
        self.live_lists = LiveLists(base.lists)
        self.seen = SeenFilter()
        """What users saw since, by rows of this catalogue."""
        super().__init__(
            **given | {"catalogue": self.live_catalogue, "users": self.live_users, "lists": self.live_lists}
        )
        self.base = base

    def external_post_id(self, row: int) -> str:
        """The product's own id of a post."""
        names = self.live_catalogue.names.get(row)
        return names[0] if names else self.base.external_post_id(row)

    def external_creator_id(self, row: int) -> str:
        """The product's own id of a post's creator."""
        names = self.live_catalogue.names.get(row)
        return names[1] if names else self.base.external_creator_id(row)


class LiveView:
    """Applies the journal to one snapshot. Threads may share it."""

    def __init__(self, snapshot: LiveSnapshot, journal: Journal, clock: Clock, weights: Mapping[str, float]) -> None:
        """`weights` say what an engagement counts for trending, by kind."""
        self.snapshot = snapshot
        self.problem: str | None = None
        """Why the view is behind or incomplete, None while it is not."""
        self._journal = journal
        self._clock = clock
        self._weights = dict(weights)
        self._trending = Trending(snapshot.base.lists, snapshot.as_of)
        self._has_new_sums = False
        self._place: int | None = None
        self._written: dict[Key, int | None] = {}
        self._on_posts: list[Callable[[NDArray[np.int64]], None]] = []
        self._on_user_gone: list[Callable[[int], None]] = []
        self._lock = RLock()

    def on_posts(self, listener: Callable[[NDArray[np.int64]], None]) -> None:
        """Calls `listener` with the catalogue rows that each batch of events wrote."""
        self._on_posts.append(listener)

    def on_user_gone(self, listener: Callable[[int], None]) -> None:
        """Calls `listener` with the id of each user that is deleted."""
        self._on_user_gone.append(listener)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody applies events while the block runs; it begins with all that was acknowledged before."""
        with self._lock:
            self.catch_up()
            yield

    def catch_up(self) -> int:
        """Number of events applied; the view then holds all that was acknowledged before the call.

        Raises StoreUnavailableError where the journal does not answer.
        """
        with self._lock:
            now = self._clock.now()
            since = None
            if self._place is None:
                # What lies longer back than trending looks matters only if it writes the catalogue.
                since = now - TRENDING_WINDOW
                self._replay_deletions(self.snapshot.journal_place)
            place = self.snapshot.journal_place if self._place is None else self._place
            count = 0
            while events := self._journal.tail(place, since, BATCH):
                self._apply(events)
                place = self._place = events[-1].place
                count += len(events)
            self._place = place
            if self._trending.latest > max(now.timestamp(), self.snapshot.as_of) + CLOCK_SLACK_SECONDS:
                self._recount(now, place)
            return count

    def written_at(self, entity: str, entity_id: int) -> tuple[bool, int | None]:
        """Whether the entity was written since the snapshot, and the place of its last put, None once deleted."""
        key = (entity, entity_id)
        return key in self._written, self._written.get(key)

    def written_ids(self, entity: str) -> list[int]:
        """Ids of the entities of one kind written or deleted since the snapshot."""
        return sorted(entity_id for kind, entity_id in list(self._written) if kind == entity)

    def _replay_deletions(self, until: int) -> None:
        """What was deleted before the snapshot was built: its rows are in there, and it stays gone."""
        users, codes = self.snapshot.live_users, self.snapshot.base.users
        rows: list[int] = []
        for entity, entity_id, came_back in self._journal.deletions(until):
            if not came_back:
                rows += self._deleted(entity, entity_id)
            elif entity == "user" and (row := codes.row_of(entity_id)) != UNKNOWN:
                users.remove(entity_id)  # the profile is new, what the log says of before is not theirs
                users.write(entity_id, int(codes.language_codes[row]), int(codes.country_codes[row]))
        self._settle(rows)

    def _apply(self, events: list[TailEvent]) -> None:
        catalogue = self.snapshot.live_catalogue
        post_ids = np.array([UNKNOWN if e.post_id is None else e.post_id for e in events], dtype=np.int64)
        known = catalogue.rows_of(post_ids)
        written: list[int] = []
        for event, row in zip(events, known.tolist(), strict=True):
            if event.kind in PUTS:
                written += self._put(event)
            elif event.kind in DELETES:
                entity = event.kind.partition("_")[2]
                written += self._deleted(entity, _id_of(entity, event))
            elif event.post_id is not None:
                row = row if row != UNKNOWN else int(catalogue.rows_of(np.array([event.post_id]))[0])
                if row != UNKNOWN:
                    self._count(event, row)
        self._settle(written)
        if self._has_new_sums:
            self._list_trending()

    def _list_trending(self) -> None:
        lists = self._trending.lists(self.snapshot.live_catalogue, self._clock.now().timestamp())
        self.snapshot.live_lists.replace_trending(*lists)
        self._has_new_sums = False

    def _recount(self, now: datetime, until: int) -> None:
        """Counts trending again from the snapshot: the clock was set back, and beside what was counted under the later
        one nothing of now would weigh anything."""
        self._trending = Trending(self.snapshot.base.lists, self.snapshot.as_of)
        place = self.snapshot.journal_place
        while place < until and (events := self._journal.tail(place, now - TRENDING_WINDOW, BATCH)):
            place = events[-1].place
            engagements = [e for e in events if e.post_id is not None and e.kind in self._weights and e.place <= until]
            rows = self.snapshot.live_catalogue.rows_of(np.array([e.post_id for e in engagements], dtype=np.int64))
            for event, row in zip(engagements, rows.tolist(), strict=True):
                if row != UNKNOWN:
                    self._engaged(event, row)
        self._list_trending()

    def _put(self, event: TailEvent) -> list[int]:
        """Rows written by a put."""
        entity = event.kind.partition("_")[2]
        entity_id = _id_of(entity, event)
        self._written[entity, entity_id] = event.place
        catalogue, payload = self.snapshot.live_catalogue, json.loads(event.payload or "{}")
        try:
            if entity == "post":
                return [catalogue.write(entity_id, payload)]
            codes = (
                catalogue.code_of("languages", payload["language"]),
                catalogue.code_of("countries", payload["country"]),
            )
            if entity == "user":
                self.snapshot.live_users.write(entity_id, *codes)
        except RoomError as error:
            self.problem = str(error)
            logger("serving").warning("live view is full", reason=self.problem)
        return []

    def _deleted(self, entity: str, entity_id: int) -> list[int]:
        """Rows that leave with an entity."""
        catalogue = self.snapshot.live_catalogue
        self._written[entity, entity_id] = None
        if entity == "user":
            self.snapshot.live_users.remove(entity_id)
            for listener in self._on_user_gone:
                listener(entity_id)
            return []
        if entity == "post":
            found = catalogue.rows_of(np.array([entity_id], dtype=np.int64))
            rows = [row for row in found.tolist() if row != UNKNOWN]
        else:
            rows = catalogue.creator_rows(entity_id).tolist()
        for row in rows:
            catalogue.remove(row)
            self._written["post", int(catalogue.post_ids[row])] = None
        return rows

    def _count(self, event: TailEvent, row: int) -> None:
        if event.kind == IMPRESSION:
            self.snapshot.catalogue.num_impressions[row] += 1
        else:
            self._engaged(event, row)
            self._has_new_sums = True

    def _engaged(self, event: TailEvent, row: int) -> None:
        at = min(event.event_at / 1e6, self._clock.now().timestamp())  # what a later clock wrote counts as of now
        self._trending.add(row, self._weights.get(event.kind, 0.0), at)

    def _settle(self, rows: list[int]) -> None:
        self.snapshot.live_catalogue.settle()
        if rows:
            changed = np.unique(np.array(rows, dtype=np.int64))
            for listener in self._on_posts:
                try:
                    listener(changed)
                except Exception as error:
                    # The posts are there; a view that stopped here would serve deleted ones for good.
                    self.problem = f"a listener failed: {error!r}"
                    logger("serving").exception("written posts not passed on", posts=len(changed))


def _id_of(entity: str, event: TailEvent) -> int:
    found = {"user": event.user_id, "creator": event.creator_id, "post": event.post_id}[entity]
    if found is None:
        raise AssertionError(f"the journal took a {event.kind} without id at {event.place}")
    return found
