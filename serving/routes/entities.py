"""Users, creators, posts and wishes: upsert, read, delete, import and export."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Header, HTTPException, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse

from serving.bulk import TooManyLinesError, export_lines, import_lines, public
from serving.entity_schemas import (
    BlockOut,
    CreatorIn,
    CreatorOut,
    EntityKind,
    FollowOut,
    HideOut,
    IdempotencyKey,
    ImportReply,
    PostIn,
    PostOut,
    UserIn,
    UserOut,
    WishKind,
)
from serving.entity_store import EntityStore, UnknownEntityError
from serving.schemas import ExternalId

NDJSON = "application/x-ndjson"
_BODY = {"required": True, "content": {NDJSON: {"schema": {"type": "string"}}}}
_LINES: dict[int | str, dict[str, Any]] = {
    200: {"content": {NDJSON: {"schema": {"type": "string"}}}, "description": "One object per line."}
}

Stores = Callable[[], EntityStore]
"""Gives the store as of the moment; a newer snapshot brings another."""

Key = Annotated[IdempotencyKey | None, Header(description="Your own id of this write; the same one counts once.")]


def entities_router(store: Stores) -> APIRouter:
    """Routes that write the catalogue and read it back. A write is on disk when it is answered."""
    router = APIRouter(tags=["catalogue"])
    _add_entities(router, store)
    _add_wishes(router, store, "follow", FollowOut, "creator")
    _add_wishes(router, store, "hide", HideOut, "post")
    _add_wishes(router, store, "block", BlockOut, "creator")
    _add_bulk(router, store)
    return router


def _add_entities(router: APIRouter, store: Stores) -> None:
    @router.put("/users/{user_id}", response_model=UserOut)
    def put_user(user_id: ExternalId, user: UserIn, idempotency_key: Key = None) -> Any:
        """Writes a user whole; the next feed goes by it."""
        return public("user", store().put("user", user_id, user, idempotency_key))

    @router.put("/creators/{creator_id}", response_model=CreatorOut)
    def put_creator(creator_id: ExternalId, creator: CreatorIn, idempotency_key: Key = None) -> Any:
        """Writes a creator whole. Posts may name creators that were never written."""
        return public("creator", store().put("creator", creator_id, creator, idempotency_key))

    @router.put("/posts/{post_id}", response_model=PostOut)
    def put_post(post_id: ExternalId, post: PostIn, idempotency_key: Key = None) -> Any:
        """Writes a post whole; feeds have it within seconds."""
        try:
            return public("post", store().put("post", post_id, post, idempotency_key))
        except UnknownEntityError as error:
            complaint = {"type": "value_error", "loc": ("body", error.field), "msg": str(error), "input": post_id}
            raise RequestValidationError([complaint]) from error

    @router.get("/users/{user_id}", response_model=UserOut)
    def read_user(user_id: ExternalId) -> Any:
        """A user as last written or imported."""
        return public("user", store().read("user", user_id))

    @router.get("/creators/{creator_id}", response_model=CreatorOut)
    def read_creator(creator_id: ExternalId) -> Any:
        """A creator as last written or imported."""
        return public("creator", store().read("creator", creator_id))

    @router.get("/posts/{post_id}", response_model=PostOut)
    def read_post(post_id: ExternalId) -> Any:
        """A post as last written or imported."""
        return public("post", store().read("post", post_id))

    @router.delete("/users/{user_id}", status_code=204)
    def delete_user(user_id: ExternalId, idempotency_key: Key = None) -> None:
        """Deletes a user: profile, wishes, what they saw, open visits. Their id is that of a stranger from then on."""
        store().delete("user", user_id, idempotency_key)

    @router.delete("/creators/{creator_id}", status_code=204)
    def delete_creator(creator_id: ExternalId, idempotency_key: Key = None) -> None:
        """Deletes a creator and all their posts."""
        store().delete("creator", creator_id, idempotency_key)

    @router.delete("/posts/{post_id}", status_code=204)
    def delete_post(post_id: ExternalId, idempotency_key: Key = None) -> None:
        """Deletes a post from every feed, pages that were ranked before included."""
        store().delete("post", post_id, idempotency_key)


def _add_wishes(router: APIRouter, store: Stores, kind: WishKind, out: type[Any], about: str) -> None:
    """Routes of one kind of wish: list, one, put, delete."""
    many, one = f"/users/{{user_id}}/{kind}s", f"/users/{{user_id}}/{kind}s/{{{about}_id}}"

    def reply(user_id: str, target: str) -> Any:
        return out(**{"user_id": user_id, f"{about}_id": target})

    def read_all(user_id: ExternalId) -> list[Any]:
        return [reply(user_id, target) for target in store().names_of_wishes(kind, user_id)]

    target_type = Annotated[ExternalId, Path(alias=f"{about}_id")]

    def read_one(user_id: ExternalId, target: target_type) -> Any:
        if target not in store().names_of_wishes(kind, user_id):
            raise HTTPException(404, f"no such {kind}")
        return reply(user_id, target)

    def put(user_id: ExternalId, target: target_type, idempotency_key: Key = None) -> Any:
        store().wish(kind, user_id, target, idempotency_key)
        return reply(user_id, target)

    def delete(user_id: ExternalId, target: target_type, idempotency_key: Key = None) -> None:
        store().wish(kind, user_id, target, idempotency_key, is_wanted=False)

    router.get(many, response_model=list[out], name=f"read_{kind}s", description=f"Every {kind} of the user.")(read_all)  # type: ignore[valid-type]
    router.get(one, response_model=out, name=f"read_{kind}", description=f"One {kind}; 404 where there is none.")(
        read_one
    )
    router.put(one, response_model=out, name=f"put_{kind}", description="Holds from the next feed on.")(put)
    router.delete(one, status_code=204, name=f"delete_{kind}", description="Lifts it from the next feed on.")(delete)


def _add_bulk(router: APIRouter, store: Stores) -> None:
    @router.post("/import", response_model=ImportReply, openapi_extra={"requestBody": _BODY})
    async def import_entities(request: Request) -> ImportReply:
        """Takes NDJSON, a user, creator, post, follow, hide or block per line. What is accepted is on disk."""
        body = await request.body()
        try:
            return await run_in_threadpool(import_lines, store(), body)
        except TooManyLinesError as error:
            complaint = {"type": "too_long", "loc": ("body",), "msg": str(error), "input": None}
            raise RequestValidationError([complaint]) from error

    @router.get("/export", response_class=StreamingResponse, responses=_LINES)
    def export_entities(
        kind: Annotated[EntityKind | WishKind, Query(description="What to export.")],
    ) -> StreamingResponse:
        """Streams every user, creator, post, follow, hide or block in the form that /import takes."""
        return StreamingResponse(export_lines(store(), kind), media_type=NDJSON)
