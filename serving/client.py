"""A small typed client of the HTTP service.

with VitrineClient("http://127.0.0.1:8000") as vitrine:
    page = vitrine.feed("42", limit=10, explain=True)
    vitrine.send([vitrine.impression(page, page.posts[0]), vitrine.engagement(page, page.posts[0], "like")])
"""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import httpx

from core.errors import InputError, StoreUnavailableError
from serving.schemas import EventIn, EventReply, FeedContext, FeedPost, FeedQuery, FeedReply, SampleUserReply
from serving.security import KEY_HEADER


class VitrineClient:
    """One connection to a service. Threads may share it."""

    def __init__(self, base_url: str, api_key: str | None = None, timeout_seconds: float = 5.0) -> None:
        headers = {KEY_HEADER: api_key} if api_key else {}
        self._http = httpx.Client(base_url=base_url, headers=headers, timeout=timeout_seconds)

    def feed(
        self,
        user_id: str,
        *,
        limit: int = 20,
        cursor: str | None = None,
        surface: str | None = None,
        explain: bool = False,
        context: FeedContext | None = None,
    ) -> FeedReply:
        """One page. Raises InputError for a refused request, StoreUnavailableError for an unreachable service."""
        query = FeedQuery(
            user_id=user_id, limit=limit, cursor=cursor, surface=surface, explain=explain,
            context=context or FeedContext(),
        )  # fmt: skip
        body = query.model_dump(mode="json", exclude_none=True)
        return FeedReply.model_validate(self._call("POST", "/feed", body))

    def scroll(self, user_id: str, *, limit: int = 20, explain: bool = False) -> Iterator[FeedReply]:
        """Page after page of one visit, until there are no more posts."""
        cursor: str | None = None
        while True:
            page = self.feed(user_id, limit=limit, cursor=cursor, explain=explain)
            yield page
            if page.next_cursor is None:
                return
            cursor = page.next_cursor

    def send(self, events: Sequence[EventIn]) -> EventReply:
        """What became of the events. Sending the same ones again is safe: an event id counts once."""
        body = {"events": [event.model_dump(mode="json", exclude_none=True) for event in events]}
        return EventReply.model_validate(self._call("POST", "/events", body))

    def sample_users(self) -> list[SampleUserReply]:
        """Active users worth looking at."""
        return [SampleUserReply.model_validate(user) for user in self._call("GET", "/users/sample")]

    @staticmethod
    def impression(page: FeedReply, post: FeedPost) -> EventIn:
        """The event that says that the user saw `post` on `page`."""
        return _event("impression", page, post, None)

    @staticmethod
    def engagement(page: FeedReply, post: FeedPost, kind: str, impression: EventIn | None = None) -> EventIn:
        """The event that says what the user did to `post`; `kind` such as like, hide or block."""
        return _event(kind, page, post, impression)

    def close(self) -> None:
        """Closes the connection."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        try:
            reply = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise StoreUnavailableError(f"{self._http.base_url} does not answer: {error}") from error
        if reply.status_code >= 500:
            raise StoreUnavailableError(f"{method} {path} answered {reply.status_code}; try again later")
        if reply.status_code >= 400:
            raise InputError(f"{method} {path} was refused with {reply.status_code}: {reply.text[:500]}")
        return reply.json()


def _event(kind: str, page: FeedReply, post: FeedPost, impression: EventIn | None) -> EventIn:
    return EventIn(
        event_id=str(uuid4()),
        kind=kind,
        user_id=page.user_id,
        post_id=post.post_id,
        request_id=page.request_id,
        impression_id=impression.event_id if impression else None,
        position=post.position if kind == "impression" else None,
    )
