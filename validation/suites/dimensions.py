"""Suites of users, creators, posts and follows.

Text columns that are only asked for presence enter a frame as their length, lists as their number of
elements; `*_is_known` and `occurrence` are computed beside them (log_subjects.py).
"""

from datetime import datetime

from core.schema import CONTENT_DIM, MEDIA_TYPES, TABLES
from validation.rules import Rule, Suite, first_of_key, holds, never_null, not_before, num_rows_at_least, one_of, within

LONGEST_TEXT = 200
LONGEST_POST_SECONDS = 7 * 86_400.0


def users(end_at: datetime) -> Suite:
    """Suite of the users table; nothing may have happened after `end_at`."""
    return Suite(
        "users",
        "users",
        (num_rows_at_least(1), *_entity("user_id"), never_null("profile_codes"), *dated("users", end_at)),
    )


def creators(end_at: datetime) -> Suite:
    """Suite of the creators table; nothing may have happened after `end_at`."""
    return Suite("creators", "creators", (num_rows_at_least(1), *_entity("creator_id"), *dated("creators", end_at)))


def posts(end_at: datetime) -> Suite:
    """Suite of the posts table; nothing may have happened after `end_at`."""
    rules = (
        num_rows_at_least(1),
        *_entity("post_id"),
        never_null("creator_id"),
        holds("creator_is_known", "creator_id is not in creators"),
        never_null("created_at"),
        within("created_at", high=end_at, reason="created_at lies after the end of the data"),
        never_null("media_type"),
        one_of("media_type", MEDIA_TYPES),
        never_null("topic_id"),
        within("topic_id", -1),
        within("duration_seconds", 0.0, LONGEST_POST_SECONDS),
        within("integrity_score", 0.0, 1.0),
        never_null("is_recommendable"),
        never_null("content_codes"),
        within("content_embedding", CONTENT_DIM, CONTENT_DIM, f"content_embedding has not {CONTENT_DIM} elements"),
        within("content_norm", 0.0, 100.0, "content_embedding is not finite"),
        *dated("posts", end_at),
    )
    return Suite("posts", "posts", rules)


def follows(end_at: datetime) -> Suite:
    """Suite of the follows table; nothing may have happened after `end_at`."""
    rules = (
        *event_id(),
        *known("user_id", "user_is_known", "users"),
        *known("creator_id", "creator_is_known", "creators"),
        never_null("is_active"),
        *dated("follows", end_at),
    )
    return Suite("follows", "follows", rules)


def dated(table: str, end_at: datetime) -> tuple[Rule, ...]:
    """Rules of both timestamps and of the key, which every table has."""
    return (
        never_null("event_at"),
        within("event_at", high=end_at, reason="event_at lies after the end of the data"),
        never_null("known_at"),
        not_before("known_at", "event_at", "known_at is before event_at"),
        first_of_key(TABLES[table].key),
    )


def event_id() -> tuple[Rule, ...]:
    """Rules of an idempotency key, which enters as its length."""
    return (
        never_null("event_id"),
        within("event_id", 1, LONGEST_TEXT, "event_id is empty or longer than 200 characters"),
    )


def known(column: str, flag: str, table: str) -> tuple[Rule, ...]:
    """Rules of a reference that must be there and must be in `table`."""
    return (never_null(column), holds(flag, f"{column} is not in {table}"))


def _entity(key: str) -> tuple[Rule, ...]:
    return (
        never_null(key),
        within(key, 0, reason=f"{key} is negative"),
        never_null("external_id"),
        within("external_id", 1, LONGEST_TEXT, "external_id is empty or longer than 200 characters"),
    )
