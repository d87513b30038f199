"""A typed client of the HTTP service: a method for every path and method of its OpenAPI document.

with VitrineClient("http://127.0.0.1:8000") as vitrine:
    page = vitrine.feed("42", limit=10, explain=True)
    vitrine.send([vitrine.impression(page, page.posts[0]), vitrine.engagement(page, page.posts[0], "like")])
"""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from serving.client_entities import EntityCalls, segment
from serving.entity_schemas import PostList
from serving.schemas import (
    CacheReply,
    EventIn,
    EventReply,
    ExplainedPost,
    ExplainReply,
    FeedContext,
    FeedPost,
    FeedQuery,
    FeedReply,
    Health,
    Readiness,
    SampleUserReply,
    ServedReply,
)


class VitrineClient(EntityCalls):
    """One connection to a service. Threads may share it. What users and posts are: `EntityCalls`."""

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

    def request(self, request_id: str) -> ServedReply:
        """What a request served and why. Raises InputError for one that nobody knows any more."""
        return ServedReply.model_validate(self._call("GET", f"/requests/{request_id}"))

    def explain(self, request_id: str) -> ExplainReply:
        """Every stage and number behind a page. Raises InputError for one that is not held any more."""
        return ExplainReply.model_validate(self._call("GET", f"/explain/{request_id}"))

    def explain_post(self, request_id: str, post_id: str) -> ExplainedPost:
        """The same of one post of the page."""
        return ExplainedPost.model_validate(self._call("GET", f"/explain/{request_id}/posts/{segment(post_id)}"))

    def caches(self) -> list[CacheReply]:
        """Every cache with its limits and what it was worth."""
        return [CacheReply.model_validate(one) for one in self._call("GET", "/caches")]

    def trending(
        self, *, limit: int = 20, language: str | None = None, country: str | None = None, explain: bool = False
    ) -> PostList:
        """What is engaged with most now."""
        return self._posts("/trending", limit=limit, language=language, country=country, explain=explain)

    def popular(
        self, *, limit: int = 20, language: str | None = None, country: str | None = None, explain: bool = False
    ) -> PostList:
        """What a country, else a language, else everyone engaged with most over a week."""
        return self._posts("/popular", limit=limit, language=language, country=country, explain=explain)

    def similar(
        self,
        post_id: str,
        *,
        limit: int = 20,
        language: str | None = None,
        country: str | None = None,
        explain: bool = False,
    ) -> PostList:
        """Posts like another one."""
        path = f"/posts/{segment(post_id)}/similar"
        return self._posts(path, limit=limit, language=language, country=country, explain=explain)

    def health(self) -> Health:
        """That the process lives."""
        return Health.model_validate(self._call("GET", "/healthz"))

    def readiness(self) -> Readiness:
        """Whether feeds are served, and without what."""
        return Readiness.model_validate(self._call("GET", "/readyz"))

    def metrics(self) -> str:
        """Prometheus metrics as text."""
        return self._send("GET", "/metrics").text

    def _posts(self, path: str, **query: Any) -> PostList:
        return PostList.model_validate(self._call("GET", path, query=query))

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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
