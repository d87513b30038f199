"""GET /trending, /popular and /posts/{id}/similar: lists that need no user."""

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query

from core.ids import internal_id
from serving.bootstrap import Runtime
from serving.browse import Browse, Listed
from serving.entity_schemas import Country, Language, PostList
from serving.entity_store import UnknownEntityError
from serving.funnel.request import Explanation, SlatePost
from serving.routes.feed import post_reply
from serving.schemas import ExternalId, Limit
from serving.snapshot import UNKNOWN

LanguageWish = Annotated[Language | None, Query(description="Only posts of this language, and posts without one.")]
CountryWish = Annotated[Country | None, Query(description="Only posts of this country, and posts without one.")]
Explain = Annotated[bool, Query(description="Adds the score of the list that brought each post.")]


def browse_router(runtime: Runtime) -> APIRouter:
    """Routes that answer with posts for nobody in particular."""
    router = APIRouter(tags=["browse"])
    browse = Browse(runtime.snapshot, runtime.spec.eligibility, runtime.clock)

    def reply(listed: Listed, is_explained: bool) -> PostList:
        catalogue, snapshot = runtime.snapshot.catalogue, runtime.snapshot
        posts = []
        for position, (row, score, source) in enumerate(listed.posts):
            ids = int(catalogue.post_ids[row]), int(catalogue.creator_ids[row])
            why = Explanation({source: score}, {}, {}, ()) if is_explained else None
            posts.append(post_reply(SlatePost(*ids, row, position, score, (source,), 1.0), snapshot, why))
        return PostList.model_validate({"posts": posts})

    @router.get("/trending", response_model=PostList)
    def read_trending(
        limit: Limit = 20, language: LanguageWish = None, country: CountryWish = None, explain: Explain = False
    ) -> PostList:
        """What is engaged with most now; engagements halve every six hours. The score is 1 for the strongest."""
        return reply(browse.trending(limit, language, country), explain)

    @router.get("/popular", response_model=PostList)
    def read_popular(
        limit: Limit = 20, language: LanguageWish = None, country: CountryWish = None, explain: Explain = False
    ) -> PostList:
        """What users of a country, else of a language, else everyone engaged with most over a week."""
        return reply(browse.popular(limit, language, country), explain)

    @router.get("/posts/{post_id}/similar", response_model=PostList)
    def read_similar(
        post_id: ExternalId,
        limit: Limit = 20,
        language: LanguageWish = None,
        country: CountryWish = None,
        explain: Explain = False,
    ) -> PostList:
        """Posts that the same users engage with, then posts of the nearest content."""
        if runtime.live is not None:
            runtime.live.view.catch_up()
        wanted = internal_id(post_id)
        row = int(runtime.snapshot.catalogue.rows_of(np.array([wanted], dtype=np.int64))[0])
        if row == UNKNOWN or (
            runtime.live is not None and runtime.live.view.written_at("post", wanted) == (True, None)
        ):
            raise UnknownEntityError("post", "post_id")
        return reply(browse.similar(row, limit, language, country), explain)

    return router
