"""Reads and writes of users, creators, posts and wishes. A write is one event of the journal; state is a view of it."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import numpy as np

from core.clock import Clock
from core.errors import VitrineError
from core.ids import internal_id
from events.journal import NO_USER, UNBLOCK, UNFOLLOW, UNHIDE, Journal, JournalEvent, JournalReport
from serving.base_entities import BaseEntities, Document
from serving.controls import JournalControls
from serving.entity_schemas import CreatorIn, PostIn, UserIn
from serving.funnel.state import Controls
from serving.live.view import LiveView

LIFTED_BY = {"follow": UNFOLLOW, "hide": UNHIDE, "block": UNBLOCK}
TARGET = {"follow": "creator", "hide": "post", "block": "creator"}
"""What each wish of a user is about."""

EntityIn = UserIn | CreatorIn | PostIn


class UnknownEntityError(VitrineError):
    """No such user, creator or post, or it was deleted."""

    def __init__(self, entity: str, field: str) -> None:
        super().__init__(f"no such {entity}, or it was deleted")
        self.field = field


class EntityStore:
    """Entities and wishes by the product's own ids. Every read sees all that was acknowledged before it."""

    def __init__(
        self, view: LiveView, journal: Journal, clock: Clock, follow: Callable[[], object] | None = None
    ) -> None:
        """`follow` takes what was written into whatever serves by then; by default into `view`."""
        self._view = view
        self._follow = follow or view.catch_up
        self._journal = journal
        self._clock = clock
        self._base = BaseEntities(view.snapshot.base)
        self._controls = JournalControls(view.snapshot, journal, seen_days=0.0)

    def read(self, entity: str, external_id: str) -> Document:
        """The entity. Raises UnknownEntityError, StoreUnavailableError."""
        self._view.catch_up()
        found = self.find(entity, internal_id(external_id))
        if found is None:
            raise UnknownEntityError(entity, f"{entity}_id")
        return found

    def find(self, entity: str, entity_id: int) -> Document | None:
        """The entity as of the last look at the journal, None where there is none."""
        is_written, place = self._view.written_at(entity, entity_id)
        if not is_written:
            return self._base.read(entity, entity_id) or (
                self._named_creator(entity_id) if entity == "creator" else None
            )
        return None if place is None else json.loads(self._journal.payload(place))

    def ids(self, entity: str) -> Iterator[int]:
        """Ids of every entity of one kind, ascending."""
        self._view.catch_up()
        written = self._view.written_ids(entity)
        written += self._view.snapshot.live_catalogue.written_creator_ids if entity == "creator" else []
        ids = np.union1d(self._base.ids(entity), np.array(written, dtype=np.int64))
        return (int(entity_id) for entity_id in ids)

    def put(self, entity: str, external_id: str, given: EntityIn, key: str | None = None) -> Document:
        """The entity as it is now. Raises UnknownEntityError where a post's creator was deleted."""
        self._view.catch_up()
        event = self.put_event(entity, external_id, given, key)
        if event is not None:
            self.append([event])
        return self.read(entity, external_id)

    def put_event(
        self, entity: str, external_id: str, given: EntityIn, key: str | None = None, is_forced: bool = False
    ) -> JournalEvent | None:
        """The event that writes the entity, None where it is so already and nothing is forced."""
        entity_id, now = internal_id(external_id), self._clock.now()
        held = self.find(entity, entity_id)
        wanted = _document(external_id, given, held, now)
        if held == wanted and not is_forced:
            return None
        if entity == "post" and self._view.written_at("creator", wanted["creator_id"]) == (True, None):
            raise UnknownEntityError("creator", "creator_id")
        ids = {f"{entity}_id": entity_id} | ({"creator_id": wanted["creator_id"]} if entity == "post" else {})
        return self._event(f"put_{entity}", now, key, payload=json.dumps(wanted), **ids)

    def delete(self, entity: str, external_id: str, key: str | None = None) -> None:
        """Deletes the entity; one that was deleted already stays so. Raises UnknownEntityError."""
        self._view.catch_up()
        event = self.delete_event(entity, external_id, key)
        if event is not None:
            self.append([event, *self.orphans(event)])

    def delete_event(self, entity: str, external_id: str, key: str | None = None) -> JournalEvent | None:
        """The event that deletes the entity, None where that was done. Raises UnknownEntityError, not for a user."""
        entity_id = internal_id(external_id)
        if self._view.written_at(entity, entity_id) == (True, None):
            return None
        # A user may be known by what they did alone, which no entity tells.
        if entity != "user" and self.find(entity, entity_id) is None:
            raise UnknownEntityError(entity, f"{entity}_id")
        return self.forced_delete(entity, external_id, key)

    def forced_delete(self, entity: str, external_id: str, key: str | None = None) -> JournalEvent:
        """The event that deletes the entity, whatever there is."""
        ids = {f"{entity}_id": internal_id(external_id)}
        return self._event(f"delete_{entity}", self._clock.now(), key, **ids)

    def orphans(self, event: JournalEvent) -> list[JournalEvent]:
        """Deletions of the posts that go with a deleted creator: each keeps a tombstone of its own."""
        if event.kind != "delete_creator":
            return []
        snapshot = self._view.snapshot
        posts = snapshot.catalogue.post_ids[snapshot.catalogue.creator_rows(event.entity_id)].tolist()
        return [
            replace(
                event, event_id=f"{event.event_id}/{post}"[-128:], kind="delete_post", creator_id=None, post_id=post
            )
            for post in posts
            if self._view.written_at("post", post) != (True, None)
        ]

    def posts_of(self, events: Sequence[JournalEvent]) -> list[Document]:
        """The posts that the events are about, as they are before them."""
        found = (self.find("post", event.post_id) for event in events if event.post_id is not None)
        return [document for document in found if document is not None]

    def wish(self, kind: str, user: str, target: str, key: str | None = None, is_wanted: bool = True) -> bool:
        """Whether anything changed by a follow, hide or block, or by lifting one. Raises UnknownEntityError."""
        self._view.catch_up()
        event = self.wish_event(kind, user, target, key, is_wanted)
        return event is not None and self.append([*self.introduction(user), event]).accepted > 0

    def introduction(self, user: str) -> list[JournalEvent]:
        """The event that makes a user known by name before their first wish; none for one who is."""
        event = self.put_event("user", user, UserIn()) if self.find("user", internal_id(user)) is None else None
        return [event] if event is not None else []

    def wish_event(
        self, kind: str, user: str, target: str, key: str | None = None, is_wanted: bool = True, is_forced: bool = False
    ) -> JournalEvent | None:
        """The event that makes the wish hold or not, None where it is so. Raises UnknownEntityError."""
        target_id, about = internal_id(target), TARGET[kind]
        held = self.find(about, target_id)
        if held is None and not is_forced:
            raise UnknownEntityError(about, f"{about}_id")
        user_id = internal_id(user)
        if not is_forced and (target_id in self.wishes(kind, user_id)) == is_wanted:
            return None
        ids = {"creator_id": target_id} if about == "creator" else {"post_id": target_id}
        if held is not None and about == "post":
            ids["creator_id"] = held["creator_id"]
        kind = kind if is_wanted else LIFTED_BY[kind]
        return self._event(kind, self._clock.now(), key, user_id=user_id, **ids)

    def wishes(self, kind: str, user_id: int) -> set[int]:
        """Ids of what the user follows, hides or blocks."""
        controls = self._read_controls(user_id)
        if kind == "hide":
            return set(self._view.snapshot.catalogue.post_ids[controls.hidden_rows].tolist())
        return set(controls.followed_creator_ids if kind == "follow" else controls.blocked_creator_ids)

    def names_of_wishes(self, kind: str, user: str) -> list[str]:
        """The product's ids of what the user follows, hides or blocks and what still is there."""
        self._view.catch_up()
        found = (self.find(TARGET[kind], target) for target in sorted(self.wishes(kind, internal_id(user))))
        return [document["external_id"] for document in found if document is not None]

    def wishing_users(self) -> list[int]:
        """Ids of the users that may have wishes, ascending."""
        self._view.catch_up()
        return np.union1d(self._base.ids("user"), np.array(self._journal.wishing_users(), dtype=np.int64)).tolist()

    def append(self, events: Sequence[JournalEvent]) -> JournalReport:
        """Makes the events durable, all or none, and takes them into view."""
        report = self._journal.append(events)
        self._follow()
        return report

    def catch_up(self) -> None:
        """Takes what others wrote into view."""
        self._view.catch_up()

    def _event(self, kind: str, now: datetime, key: str | None, **fields: object) -> JournalEvent:
        given = {"user_id": NO_USER} | fields
        return JournalEvent(key or f"write-{uuid4().hex}", kind, event_at=now, received_at=now, **given)  # type: ignore[arg-type]

    def _named_creator(self, creator_id: int) -> Document | None:
        """A creator that nobody wrote and a post names."""
        rows = self._view.snapshot.catalogue.creator_rows(creator_id)
        if not len(rows):
            return None
        return {"external_id": self._view.snapshot.external_creator_id(int(rows[0])), "language": None, "country": None}

    def _read_controls(self, user_id: int) -> Controls:
        return self._controls.read(user_id, self._view.snapshot.users.row_of(user_id), self._clock.now())


def _document(external_id: str, given: EntityIn, held: Document | None, now: datetime) -> Document:
    """The entity as the journal keeps it."""
    document: Document = {"external_id": external_id} | given.model_dump(mode="json")
    if isinstance(given, PostIn):
        created_at = given.created_at.astimezone(UTC).isoformat() if given.created_at else None
        document["created_at"] = created_at or (held["created_at"] if held else now.astimezone(UTC).isoformat())
        document["creator_external_id"] = given.creator_id
        document["creator_id"] = internal_id(given.creator_id)
    return document
