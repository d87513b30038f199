"""Import and export of entities and wishes as NDJSON: one JSON object per line, the same form both ways.

{"kind": "post", "post_id": "p1", "creator_id": "c1", "media_type": "video", "language": "en"}
{"kind": "follow", "user_id": "u1", "creator_id": "c1", "event_id": "your-own"}
{"kind": "post", "post_id": "p1", "is_deleted": true}
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError

from core.ids import internal_id
from events.journal import JournalEvent
from serving.base_entities import Document
from serving.entity_schemas import (
    CreatorIn,
    CreatorOut,
    IdempotencyKey,
    ImportReply,
    LineRefusal,
    PostIn,
    PostOut,
    UserIn,
    UserOut,
)
from serving.entity_store import TARGET, EntityStore, UnknownEntityError
from serving.schemas import ExternalId

MAX_LINES = 5_000
LINES_PER_CHUNK = 256

_MODELS: dict[str, type[UserIn | CreatorIn | PostIn]] = {"user": UserIn, "creator": CreatorIn, "post": PostIn}
_OUT: dict[str, type[BaseModel]] = {"user": UserOut, "creator": CreatorOut, "post": PostOut}
_EXTERNAL: TypeAdapter[str] = TypeAdapter(ExternalId)
_KEY: TypeAdapter[str] = TypeAdapter(IdempotencyKey)


class TooManyLinesError(ValueError):
    """An import of more lines than one request may have."""


class _RefusedError(Exception):
    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field
        self.reason = reason


@dataclass
class _Batch:
    """What the lines before have written; state does not show it yet."""

    touched: dict[tuple[str, str], bool]
    """Whether each entity is there after the lines so far."""
    introductions: list[JournalEvent] = field(default_factory=list)
    """What must go before the next line's event."""


def import_lines(store: EntityStore, body: bytes) -> ImportReply:
    """What became of each line; wrong ones are refused, the others are on disk together when this returns.

    Raises TooManyLinesError before anything is taken.
    """
    lines = [(number, line) for number, line in enumerate(body.split(b"\n"), 1) if line.strip()]
    if len(lines) > MAX_LINES:
        raise TooManyLinesError(f"{len(lines)} lines; send at most {MAX_LINES} in one request")
    store.catch_up()
    events: list[JournalEvent] = []
    num_taken = 0
    refused: list[LineRefusal] = []
    unchanged, batch = 0, _Batch({})
    for number, line in lines:
        try:
            event = _event(store, line, batch)
        except _RefusedError as error:
            refused.append(LineRefusal(line=number, field=error.field, reason=error.reason))
            continue
        if event is None:
            unchanged += 1
        else:
            num_taken += 1
            orphans = store.orphans(event)
            events += [*batch.introductions, event, *orphans]
            batch.introductions = []
            batch.touched |= {("post", found["external_id"]): False for found in store.posts_of(orphans)}
    report = store.append(events) if events else None
    doubled = min(report.duplicates, num_taken) if report else 0
    return ImportReply(accepted=num_taken - doubled, unchanged=unchanged + doubled, refused=refused)


def export_lines(store: EntityStore, kind: str) -> Iterator[bytes]:
    """Every entity or wish of one kind as NDJSON, a few hundred lines at a time."""
    lines: list[bytes] = []
    for line in _entities(store, kind) if kind in _MODELS else _wishes(store, kind):
        lines.append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        if len(lines) == LINES_PER_CHUNK:
            yield b"".join(lines)
            lines = []
    yield b"".join(lines)


def public(entity: str, document: Document) -> dict[str, Any]:
    """The document as the API gives it."""
    given = dict(document) | {f"{entity}_id": document["external_id"]}
    if entity == "post":
        given["creator_id"] = document["creator_external_id"]
    return {name: given[name] for name in _OUT[entity].model_fields}


def _entities(store: EntityStore, kind: str) -> Iterator[dict[str, Any]]:
    for entity_id in store.ids(kind):
        if (document := store.find(kind, entity_id)) is not None:
            yield {"kind": kind} | public(kind, document)


def _wishes(store: EntityStore, kind: str) -> Iterator[dict[str, Any]]:
    about = TARGET[kind]
    for user_id in store.wishing_users():
        targets = [store.find(about, target) for target in sorted(store.wishes(kind, user_id))]
        user = store.find("user", user_id)
        name = user["external_id"] if user is not None else str(user_id)
        for target in targets:
            # Someone known by events alone has left no name but a number.
            if target is not None and internal_id(name) == user_id:
                yield {"kind": kind, "user_id": name, f"{about}_id": target["external_id"]}


def _event(store: EntityStore, line: bytes, batch: _Batch) -> JournalEvent | None:
    given = _object(line)
    kind, key = given.pop("kind", None), given.pop("event_id", None)
    is_deleted = given.pop("is_deleted", False)
    if not isinstance(kind, str):
        raise _RefusedError("kind", f"is none of {', '.join((*_MODELS, *TARGET))}")
    if not isinstance(is_deleted, bool):
        raise _RefusedError("is_deleted", "is neither true nor false")
    if key is not None:
        key = _valid(_KEY, key, "event_id")
    try:
        if kind in _MODELS:
            return _entity_event(store, kind, given, key, is_deleted, batch)
        if kind in TARGET:
            return _wish_event(store, kind, given, key, is_deleted, batch)
    except UnknownEntityError as error:
        raise _RefusedError(error.field, str(error)) from error
    raise _RefusedError("kind", f"is none of {', '.join((*_MODELS, *TARGET))}")


def _object(line: bytes) -> dict[str, Any]:
    try:
        given = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise _RefusedError("", f"is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise _RefusedError("", "is not a JSON object")
    return given


def _entity_event(
    store: EntityStore, kind: str, given: dict[str, Any], key: str | None, is_deleted: bool, batch: _Batch
) -> JournalEvent | None:
    name = _valid(_EXTERNAL, given.pop(f"{kind}_id", None), f"{kind}_id")
    is_touched = (kind, name) in batch.touched
    if is_deleted:
        if given:
            raise _RefusedError(next(iter(given)), "does not belong to a deletion")
        if is_touched and not batch.touched[kind, name]:
            return None
        event = store.forced_delete(kind, name, key) if is_touched else store.delete_event(kind, name, key)
    else:
        try:
            entity = _MODELS[kind].model_validate(given)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            raise _RefusedError(".".join(str(part) for part in first["loc"]), first["msg"]) from error
        event = store.put_event(kind, name, entity, key, is_forced=is_touched)
    if event is not None:
        batch.touched[kind, name] = not is_deleted
    return event


def _wish_event(
    store: EntityStore, kind: str, given: dict[str, Any], key: str | None, is_lifted: bool, batch: _Batch
) -> JournalEvent | None:
    about = TARGET[kind]
    user = _valid(_EXTERNAL, given.pop("user_id", None), "user_id")
    target = _valid(_EXTERNAL, given.pop(f"{about}_id", None), f"{about}_id")
    if given:
        raise _RefusedError(next(iter(given)), "is not a key of this kind")
    is_new = batch.touched.get((about, target), False)
    wish = (kind, f"{user}\n{target}")
    event = store.wish_event(kind, user, target, key, not is_lifted, is_forced=is_new or wish in batch.touched)
    if event is not None:
        batch.touched[wish] = not is_lifted
        if not batch.touched.get(("user", user), False):
            batch.introductions = store.introduction(user)
            batch.touched["user", user] = True
    return event


def _valid(adapter: TypeAdapter[str], value: Any, field: str) -> str:
    try:
        return adapter.validate_python(value, strict=True)
    except ValidationError as error:
        raise _RefusedError(field, error.errors(include_url=False, include_context=False)[0]["msg"]) from error
