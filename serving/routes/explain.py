"""GET /explain: why a page looks as it did, by its request id; and what the caches are worth."""

from typing import Any

from fastapi import APIRouter, HTTPException
from fastapi.exceptions import RequestValidationError

from core.ids import internal_id, request_id_number
from serving.bootstrap import Runtime
from serving.caches import report
from serving.explanations import Explanations
from serving.routes.feed import external_post_ids
from serving.schemas import CacheReply, ExplainedPost, ExplainReply, ExternalId, RequestIdText


def explain_router(runtime: Runtime, explanations: Explanations) -> APIRouter:
    """Routes that explain."""
    router = APIRouter(tags=["explanation"])

    def find(request_id: str) -> dict[str, Any]:
        try:
            found = explanations.find(request_id_number(request_id))
        except ValueError as error:
            complaint = {"type": "value_error", "loc": ("path", "request_id"), "msg": str(error), "input": request_id}
            raise RequestValidationError([complaint]) from error
        if found is None:
            raise HTTPException(404, "no such request, or its explanation is no longer held")
        return found

    @router.get("/explain/{request_id}", response_model=ExplainReply)
    def explain_request(request_id: RequestIdText) -> dict[str, Any]:
        """Stages of the rankings behind a page, and sources, scores, rules and propensity of each of its posts."""
        found = find(request_id)
        names = external_post_ids(runtime.snapshot, [post["post_id"] for post in found["posts"]])
        posts = [post | {"post_id": name} for post, name in zip(found["posts"], names, strict=True)]
        return found | {"request_id": request_id, "posts": posts}

    @router.get("/explain/{request_id}/posts/{post_id}", response_model=ExplainedPost)
    def explain_post(request_id: RequestIdText, post_id: ExternalId) -> dict[str, Any]:
        """The same of one post."""
        wanted = internal_id(post_id)
        for post in find(request_id)["posts"]:
            if post["post_id"] == wanted:
                return dict(post) | {"post_id": post_id}
        raise HTTPException(404, "that request did not serve this post")

    @router.get("/caches", response_model=list[CacheReply])
    def read_caches() -> list[CacheReply]:
        """Every cache: key, limits, what drops an entry early, and lookups of this process since it started."""
        return report(runtime.spec.caches, runtime.metrics.caches)

    return router
