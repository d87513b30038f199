"""Writes of users, creators and posts as rows of the log's tables, for compaction."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from core.schema import TABLES
from events.journal import WRITE_KINDS, JournalEvent

Row = dict[str, Any]


def written_rows(log_root: Path, events: Sequence[JournalEvent]) -> dict[str, pa.Table]:
    """Rows of `users`, `creators` and `posts` that the writes among `events` make, by table.

    A deleted post, or post of a deleted creator, becomes its last row with `is_recommendable` false; a deleted user
    or creator a row without profile. Of two writes to one entity at one instant the later one stays.
    """
    writes = [event for event in events if event.kind in WRITE_KINDS]
    if not writes:
        return {}
    posts = _Posts(log_root, writes)
    rows: dict[str, dict[tuple[int, datetime], Row]] = {"users": {}, "creators": {}, "posts": {}}
    for event in writes:
        for table, row in _rows_of(event, posts):
            row |= {"event_at": event.event_at, "known_at": max(event.event_at, event.received_at)}
            rows[table][row[TABLES[table].key[0]], event.event_at] = row
    return {table: _table(table, list(found.values())) for table, found in rows.items() if found}


def written_users(events: Sequence[JournalEvent]) -> set[int]:
    """Ids of the users that the writes among `events` put or delete."""
    return {event.user_id for event in events if event.kind in ("put_user", "delete_user")}


class _Posts:
    """The last row of every post that a deletion in the batch may need, as the batch goes on."""

    def __init__(self, log_root: Path, writes: Sequence[JournalEvent]) -> None:
        by_id = [e.entity_id for e in writes if e.kind == "delete_post"]
        by_creator = [e.entity_id for e in writes if e.kind == "delete_creator"]
        self._rows: dict[int, Row] = {}
        if by_id or by_creator:
            self._rows = {row["post_id"]: row for row in _last_posts(log_root, by_id, by_creator)}

    def put(self, row: Row) -> None:
        """Keeps the row that now holds."""
        self._rows[row["post_id"]] = row

    def withdrawn(self, post_ids: Sequence[int]) -> list[Row]:
        """The posts' rows, recommendable no more; those that the log never had are left out."""
        found = [self._rows[post_id] | {"is_recommendable": False} for post_id in post_ids if post_id in self._rows]
        for row in found:
            self.put(row)
        return found

    def of_creator(self, creator_id: int) -> list[int]:
        return [post_id for post_id, row in self._rows.items() if row["creator_id"] == creator_id]


def _last_posts(log_root: Path, post_ids: Sequence[int], creator_ids: Sequence[int]) -> list[Row]:
    """The last row of each of these posts, and of each post of these creators."""
    # pyarrow.dataset cannot read back a null among lists of fixed length. Imported here: only deletions need DuckDB.
    import duckdb

    from events.read import latest, register_log

    with duckdb.connect() as connection:
        register_log(connection, log_root)
        found = connection.sql(
            f"SELECT * FROM {latest(connection, 'posts')} WHERE post_id IN (SELECT unnest($posts::BIGINT[])) "
            "OR creator_id IN (SELECT unnest($creators::BIGINT[]))",
            params={"posts": list(post_ids), "creators": list(creator_ids)},
        )
        rows: list[Row] = found.to_arrow_table().to_pylist()
    return rows


def _rows_of(event: JournalEvent, posts: _Posts) -> list[tuple[str, Row]]:
    verb, _, entity = event.kind.partition("_")
    if verb == "put":
        row = {f"{entity}_id": event.entity_id} | _given(entity, json.loads(event.payload or "{}"))
        if entity == "post":
            posts.put(row)
        return [(f"{entity}s", dict(row))]
    if entity == "post":
        return [("posts", dict(row)) for row in posts.withdrawn([event.entity_id])]
    bare: Row = {f"{entity}_id": event.entity_id, "external_id": str(event.entity_id)}
    if entity == "user":
        return [("users", bare | {"profile_codes": []})]
    withdrawn = posts.withdrawn(posts.of_creator(event.entity_id))
    return [("creators", bare), *(("posts", dict(row)) for row in withdrawn)]


def _given(entity: str, payload: Mapping[str, Any]) -> Row:
    """The payload's columns that the entity's table has."""
    row = {name: payload.get(name) for name in TABLES[f"{entity}s"].arrow.names if name in payload}
    if "created_at" in row:
        row["created_at"] = datetime.fromisoformat(payload["created_at"])
    return row


def _table(table: str, rows: Sequence[Row]) -> pa.Table:
    schema = TABLES[table].arrow
    return pa.table({f.name: pa.array([row.get(f.name) for row in rows], f.type) for f in schema}, schema=schema)
