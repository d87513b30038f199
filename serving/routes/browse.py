"""GET /trending, /popular and /posts/{id}/similar: lists that need no user."""

from typing import Annotated

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
    current = [_browse(runtime)]
    runtime.funnels.followers.append(lambda _: current.__setitem__(0, _browse(runtime)))

    def reply(listed: Listed, is_explained: bool) -> PostList:
        snapshot = listed.snapshot
        catalogue = snapshot.catalogue
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
        return reply(current[0].trending(limit, language, country), explain)

    @router.get("/popular", response_model=PostList)
    def read_popular(
        limit: Limit = 20, language: LanguageWish = None, country: CountryWish = None, explain: Explain = False
    ) -> PostList:
        """What users of a country, else of a language, else everyone engaged with most over a week."""
        return reply(current[0].popular(limit, language, country), explain)

    @router.get("/posts/{post_id}/similar", response_model=PostList)
    def read_similar(
        post_id: ExternalId,
        limit: Limit = 20,
        language: LanguageWish = None,
        country: CountryWish = None,
        explain: Explain = False,
    ) -> PostList:
        """Posts that the same users engage with, then posts of the nearest content."""
        runtime.catch_up()
        wanted, live, browse = internal_id(post_id), runtime.live, current[0]
        row = browse.row_of(wanted)
        if row == UNKNOWN or (live is not None and live.view.written_at("post", wanted) == (True, None)):
            raise UnknownEntityError("post", "post_id")
        return reply(browse.similar(row, limit, language, country), explain)

    return router


def _browse(runtime: Runtime) -> Browse:
    funnel = runtime.funnel
    return Browse(funnel.snapshot, funnel.spec.eligibility, runtime.clock)
