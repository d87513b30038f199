"""Posted events: checked one by one, joined to what was served, durable before they are acknowledged."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from pydantic import ValidationError

from core.clock import Clock
from core.errors import StoreUnavailableError
from core.ids import internal_id, request_id_number
from events.journal import IMPRESSION, UNBLOCK, UNFOLLOW, Journal, JournalEvent
from events.served import ServedLog, ServedPage
from serving.metrics import Metrics
from serving.schemas import EventIn, Refusal, writable
from serving.snapshot import UNKNOWN, Catalogue

FUTURE_TOLERANCE = timedelta(minutes=5)
OLDEST = timedelta(days=14)
"""Engagements count for up to two weeks; older events are backfill and go through the importers."""
CREATOR_KINDS = ("follow", UNFOLLOW, "block", UNBLOCK)
"""Kinds that are about a creator; the others need a post."""


@dataclass(frozen=True)
class IntakeReport:
    """What became of a batch."""

    accepted: int
    duplicates: int
    refused: tuple[Refusal, ...]


class _RefusedError(Exception):
    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field
        self.reason = reason


class Intake:
    """Turns posted events into journal rows."""

    def __init__(
        self,
        journal: Journal,
        served: ServedLog,
        catalogue: Callable[[], Catalogue],
        clock: Clock,
        metrics: Metrics,
        surface: str,
        catch_up: Callable[[], object] | None = None,
    ) -> None:
        """`catalogue`: the one that serves at the moment; a row is of one of them.

        `catch_up` takes into the catalogue what other processes wrote; asked where a post or creator is unknown.
        """
        self._journal = journal
        self._served = served
        self._catalogue = catalogue
        self._clock = clock
        self._metrics = metrics
        self._surface = surface
        self._catch_up = catch_up or (lambda: None)

    def post(self, batch: Sequence[Any]) -> IntakeReport:
        """The batch's fate. What it counts as accepted is on disk. Raises StoreUnavailableError, then none is."""
        now = self._clock.now()
        events: list[JournalEvent] = []
        refused: list[Refusal] = []
        pages: dict[str, ServedPage | None] = {}
        for place, raw in enumerate(batch):
            try:
                events.append(self._event(EventIn.model_validate(raw), now, pages))
            except ValidationError as error:
                first = error.errors(include_url=False, include_context=False)[0]
                field = writable(".".join(str(part) for part in first["loc"]))
                refused.append(Refusal(index=place, event_id=_id_of(raw), field=field, reason=first["msg"]))
            except _RefusedError as error:
                refused.append(Refusal(index=place, event_id=_id_of(raw), field=error.field, reason=error.reason))
        report = self._journal.append(events) if events else None
        accepted, duplicates = (report.accepted, report.duplicates) if report else (0, 0)
        self._metrics.events(accepted, duplicates, len(refused))
        return IntakeReport(accepted, duplicates, tuple(refused))

    def _event(self, given: EventIn, now: datetime, pages: dict[str, ServedPage | None]) -> JournalEvent:
        event_at = self._instant(given, now)
        post_id, creator_id = self._subject(given)
        user_id = internal_id(given.user_id)
        page, place = self._served_as(given, user_id, post_id, pages)
        impression: Mapping[str, Any] = {}
        if given.kind == IMPRESSION:
            impression = self._impression(given, page, place)
        return JournalEvent(
            event_id=given.event_id,
            kind=given.kind,
            user_id=user_id,
            event_at=event_at,
            received_at=now,
            post_id=post_id,
            creator_id=creator_id,
            request_id=request_id_number(given.request_id) if given.request_id else None,
            impression_id=given.impression_id,
            dwell_seconds=given.dwell_seconds,
            **impression,
        )

    def _instant(self, given: EventIn, now: datetime) -> datetime:
        if given.event_at is None:
            return now
        if given.event_at.tzinfo is None:
            raise _RefusedError("event_at", "needs a time zone, such as 2026-03-14T09:30:00Z")
        at = given.event_at.astimezone(UTC)
        if at > now + FUTURE_TOLERANCE:
            raise _RefusedError("event_at", f"lies in the future; the platform's time is {now.isoformat()}")
        if at < now - OLDEST:
            raise _RefusedError("event_at", f"is older than {OLDEST.days} days; import it as past data instead")
        return at

    def _subject(self, given: EventIn) -> tuple[int | None, int | None]:
        """Ids of the post and the creator that the event is about."""
        creator_id = internal_id(given.creator_id) if given.creator_id is not None else None
        if given.post_id is None:
            if given.kind not in CREATOR_KINDS:
                raise _RefusedError("post_id", f"{given.kind} needs the post it is about")
            if creator_id is None:
                raise _RefusedError("creator_id", f"{given.kind} needs a creator_id or a post_id")
            if not self._has_posts(creator_id):
                raise _RefusedError("creator_id", "no such creator")
            return None, creator_id
        post_id = internal_id(given.post_id)
        owner = self._owner(post_id)
        if owner is None:
            self._catch_up()
            owner = self._owner(post_id)
        if owner is None:
            raise _RefusedError("post_id", "no such post")
        if creator_id is not None and creator_id != owner:
            raise _RefusedError("creator_id", "is not the creator of the post")
        return post_id, owner

    def _owner(self, post_id: int) -> int | None:
        """The post's creator, None where nobody wrote it."""
        catalogue = self._catalogue()
        row = int(catalogue.rows_of(np.array([post_id]))[0])
        return None if row == UNKNOWN else int(catalogue.creator_ids[row])

    def _has_posts(self, creator_id: int) -> bool:
        if not len(self._catalogue().creator_rows(creator_id)):
            self._catch_up()
        return len(self._catalogue().creator_rows(creator_id)) > 0

    def _served_as(
        self, given: EventIn, user_id: int, post_id: int | None, pages: dict[str, ServedPage | None]
    ) -> tuple[ServedPage | None, int]:
        """The page that the event names and the post's place on it; an unknown request passes, a wrong one does not."""
        if given.request_id is None:
            return None, -1
        if given.request_id not in pages:
            try:
                pages[given.request_id] = self._served.page(request_id_number(given.request_id))
            except StoreUnavailableError:
                pages[given.request_id] = None
        page = pages[given.request_id]
        if page is None:
            return None, -1
        if page.user_id != user_id:
            raise _RefusedError("request_id", "belongs to another user's request")
        if post_id is None:
            return page, -1
        if post_id not in page.post_ids:
            raise _RefusedError("post_id", "was not served in this request")
        return page, page.post_ids.index(post_id)

    def _impression(self, given: EventIn, page: ServedPage | None, place: int) -> Mapping[str, Any]:
        if page is None:
            return {"surface": given.surface or self._surface, "position": given.position}
        return {
            "surface": page.surface,
            "position": page.positions[place],
            "served_at": page.ranked_at[place],
            "sources": page.sources[place],
            "propensity": page.propensities[place],
            "spec_version": page.spec_version,
            "model_versions": page.model_versions,
        }


def _id_of(raw: Any) -> str | None:
    given = raw.get("event_id") if isinstance(raw, dict) else None
    return writable(given[:128]) if isinstance(given, str) else None
