"""GET and POST /feed, and the explanation of a page by its request id."""

from datetime import UTC, datetime
from typing import Annotated

import numpy as np
import orjson
from fastapi import APIRouter, HTTPException, Query
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response

from core.ids import internal_id, request_id_number, request_id_text
from events.served import ServedLog
from serving.bootstrap import Runtime, default_surface
from serving.cursor import CursorError
from serving.feed import Feed, Page, PagePost
from serving.funnel.request import FeedRequest
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
)
from serving.snapshot import UNKNOWN, Snapshot


def feed_router(runtime: Runtime, feed: Feed, served: ServedLog) -> APIRouter:
    """Routes that answer with posts."""
    router = APIRouter(tags=["feed"])
    surface = default_surface(runtime.spec, runtime.snapshot)
    surfaces = frozenset({runtime.spec.surface, *runtime.snapshot.surfaces})

    def answer(query: FeedQuery, where: str) -> Response:
        if query.surface is not None and query.surface not in surfaces:
            raise _invalid(where, "surface", f"unknown surface; known are {', '.join(sorted(surfaces))}", query.surface)
        wish = FeedRequest(
            user_id=internal_id(query.user_id),
            at=datetime.min.replace(tzinfo=UTC),
            limit=query.limit,
            surface=query.surface or surface,
            country=query.context.country,
            language=query.context.language,
            device=query.context.device,
            request_id=current_request_id(),
        )
        try:
            page = feed.page(wish, query.cursor)
        except CursorError as error:
            raise _invalid(where, "cursor", str(error), query.cursor) from error
        return _reply(page, query, runtime.snapshot)

    @router.get("/feed", response_model=FeedReply)
    def read_feed(
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
        return answer(query, "query")

    @router.post("/feed", response_model=FeedReply)
    def ask_feed(query: FeedQuery) -> Response:
        """One page of the user's feed for the given circumstances."""
        return answer(query, "body")

    @router.get("/requests/{request_id}", response_model=ServedReply)
    def read_request(request_id: RequestIdText) -> ServedReply:
        """What a request served and why, for as long as engagements count for it."""
        try:
            page = served.page(request_id_number(request_id))
        except ValueError as error:
            raise _invalid("path", "request_id", str(error), request_id) from error
        if page is None:
            raise HTTPException(404, "no such request, or it is too old")
        rows = runtime.snapshot.catalogue.rows_of(np.array(page.post_ids, dtype=np.int64)).tolist()
        names = [
            str(post_id) if row == UNKNOWN else runtime.snapshot.external_post_id(row)
            for row, post_id in zip(rows, page.post_ids, strict=True)
        ]
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
                        **page.explanations[place],
                    }
                    for place, name in enumerate(names)
                ],
            }
        )

    return router


def _reply(page: Page, query: FeedQuery, snapshot: Snapshot) -> Response:
    content = {
        "request_id": request_id_text(page.request_id),
        "user_id": query.user_id,
        "surface": page.surface,
        "spec_version": page.spec_version,
        "model_versions": page.model_versions,
        "posts": [_post(p, snapshot, query.explain) for p in page.posts],
        "next_cursor": page.next_cursor,
        "degraded": page.degraded,
    }
    return Response(orjson.dumps(content), media_type="application/json")


def _post(entry: PagePost, snapshot: Snapshot, is_explained: bool) -> dict[str, object]:
    catalogue, row = snapshot.catalogue, entry.post.row
    topic = int(catalogue.topic_ids[row])
    duration = float(catalogue.duration_seconds[row])
    post: dict[str, object] = {
        "post_id": snapshot.external_post_id(row),
        "creator_id": snapshot.external_creator_id(row),
        "position": entry.post.position,
        "score": entry.post.score,
        "sources": entry.post.sources,
        "media_type": _name(catalogue.media_types, int(catalogue.media_codes[row])),
        "language": _name(catalogue.languages, int(catalogue.language_codes[row])),
        "country": _name(catalogue.countries, int(catalogue.country_codes[row])),
        "topic_id": topic if topic >= 0 else None,
        "topic": snapshot.topic_names.get(topic),
        "created_at": datetime.fromtimestamp(float(catalogue.created_at[row]), UTC),
        "duration_seconds": duration if duration == duration else None,
    }
    if is_explained:
        why = entry.explanation
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
