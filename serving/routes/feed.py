"""GET and POST /feed, and what a request served."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import numpy as np
import orjson
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, HTTPException, Query
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response

from core.ids import internal_id, request_id_number, request_id_text
from events.served import ServedLog
from serving.bootstrap import Runtime, default_surface
from serving.cursor import CursorError
from serving.explain import Page
from serving.feed import Feed
from serving.funnel.request import Explanation, FeedRequest, SlatePost
from serving.overload import Admission
from serving.request_log import current_request_id
from serving.schemas import (
    CursorText,
    ExternalId,
    FeedQuery,
    FeedReply,
    Limit,
    RequestIdText,
    ServedReply,
    SurfaceName,
    Why,
)
from serving.snapshot import UNKNOWN, Snapshot

SHEDDING_THREADS = 1
"""Answers from the reserve are quick; a second thread would only take the processor from the rankings under way."""


def feed_router(runtime: Runtime, feed: Feed, served: ServedLog) -> APIRouter:
    """Routes that answer with posts."""
    router = APIRouter(tags=["feed"])
    overload = runtime.spec.overload
    admission = Admission(overload)
    ranking, shedding = CapacityLimiter(overload.max_in_flight), CapacityLimiter(SHEDDING_THREADS)

    async def answer(query: FeedQuery, where: str) -> Response:
        """Ranked where it is the request's turn, from the reserve where too many want one."""
        if await admission.admit():
            runtime.metrics.admission("admitted")
            try:
                return await to_thread.run_sync(answer_now, query, where, True, limiter=ranking)
            finally:
                admission.leave()
        if shedding.statistics().tasks_waiting >= overload.max_shed:
            runtime.metrics.admission("refused")
            raise HTTPException(503, "too many requests at once, try again", headers={"Retry-After": "1"})
        runtime.metrics.admission("shed")
        return await to_thread.run_sync(answer_now, query, where, False, limiter=shedding)

    def answer_now(query: FeedQuery, where: str, may_rank: bool) -> Response:
        surfaces = {*runtime.funnels.current.by_surface, *runtime.snapshot.surfaces}
        if query.surface is not None and query.surface not in surfaces:
            raise _invalid(where, "surface", f"unknown surface; known are {', '.join(sorted(surfaces))}", query.surface)
        wish = FeedRequest(
            user_id=internal_id(query.user_id),
            at=datetime.min.replace(tzinfo=UTC),
            limit=query.limit,
            surface=query.surface or default_surface(runtime.spec, runtime.snapshot),
            country=query.context.country,
            language=query.context.language,
            device=query.context.device,
            request_id=current_request_id(),
        )
        try:
            page = feed.page(wish, query.cursor, may_rank=may_rank)
        except CursorError as error:
            raise _invalid(where, "cursor", str(error), query.cursor) from error
        return _reply(page, query)

    @router.get("/feed", response_model=FeedReply)
    async def read_feed(
        user_id: ExternalId,
        limit: Limit = 20,
        surface: SurfaceName | None = None,
        cursor: CursorText | None = None,
        explain: Annotated[
            bool, Query(description="Adds scores, probabilities, value and rules of each post.")
        ] = False,
    ) -> Response:
        """One page of the user's feed. An unknown user gets a cold-start feed."""
        query = FeedQuery(user_id=user_id, limit=limit, surface=surface, cursor=cursor, explain=explain)
        return await answer(query, "query")

    @router.post("/feed", response_model=FeedReply)
    async def ask_feed(query: FeedQuery) -> Response:
        """One page of the user's feed for the given circumstances."""
        return await answer(query, "body")

    @router.get("/requests/{request_id}", response_model=ServedReply)
    def read_request(request_id: RequestIdText) -> ServedReply:
        """What a request served and why, for as long as engagements count for it."""
        try:
            page = served.page(request_id_number(request_id))
        except ValueError as error:
            raise _invalid("path", "request_id", str(error), request_id) from error
        if page is None:
            raise HTTPException(404, "no such request, or it is too old")
        names = external_post_ids(runtime.snapshot, page.post_ids)
        why = {post["post_id"]: post for post in (feed.explanations.find(page.request_id) or {}).get("posts", [])}
        return ServedReply.model_validate(
            {
                **vars(page),
                "request_id": request_id,
                "posts": [
                    {
                        "post_id": name,
                        "position": page.positions[place],
                        "propensity": page.propensities[place],
                        "ranked_at": page.ranked_at[place],
                        "sources": page.sources[place],
                        **{key: why.get(page.post_ids[place], {}).get(key) for key in Why.model_fields},
                    }
                    for place, name in enumerate(names)
                ],
            }
        )

    return router


def external_post_ids(snapshot: Snapshot, post_ids: Sequence[int]) -> list[str]:
    """The product's own ids; a post that left the catalogue keeps its number."""
    rows = snapshot.catalogue.rows_of(np.array(post_ids, dtype=np.int64)).tolist()
    return [
        str(post_id) if row == UNKNOWN else snapshot.external_post_id(row)
        for row, post_id in zip(rows, post_ids, strict=True)
    ]


def _reply(page: Page, query: FeedQuery) -> Response:
    content = {
        "request_id": request_id_text(page.request_id),
        "user_id": query.user_id,
        "surface": page.surface,
        "spec_version": page.spec_version,
        "model_versions": page.model_versions,
        "posts": [post_reply(p.post, page.snapshot, p.explanation if query.explain else None) for p in page.posts],
        "next_cursor": page.next_cursor,
        "degraded": page.degraded,
    }
    return Response(orjson.dumps(content), media_type="application/json")


def post_reply(shown: SlatePost, snapshot: Snapshot, why: Explanation | None) -> dict[str, object]:
    """A post as FeedPost gives it, with its reasons if wanted."""
    catalogue, row = snapshot.catalogue, shown.row
    topic = int(catalogue.topic_ids[row])
    duration = float(catalogue.duration_seconds[row])
    post: dict[str, object] = {
        "post_id": snapshot.external_post_id(row),
        "creator_id": snapshot.external_creator_id(row),
        "position": shown.position,
        "score": shown.score,
        "sources": shown.sources,
        "media_type": _name(catalogue.media_types, int(catalogue.media_codes[row])),
        "language": _name(catalogue.languages, int(catalogue.language_codes[row])),
        "country": _name(catalogue.countries, int(catalogue.country_codes[row])),
        "topic_id": topic if topic >= 0 else None,
        "topic": snapshot.topic_names.get(topic),
        "created_at": datetime.fromtimestamp(float(catalogue.created_at[row]), UTC),
        "duration_seconds": duration if duration == duration else None,
    }
    if why is not None:
        post |= {
            "stage_scores": why.stage_scores,
            "probabilities": why.probabilities,
            "value_contributions": why.value_contributions,
            "rules": why.rules,
        }
    return post


def _name(vocabulary: tuple[str, ...], code: int) -> str | None:
    return vocabulary[code] if code != UNKNOWN else None


def _invalid(where: str, field: str, reason: str, given: object) -> RequestValidationError:
    """The same 422 that a malformed parameter gets."""
    return RequestValidationError([{"type": "value_error", "loc": (where, field), "msg": reason, "input": given}])
