"""Suites of requests, impressions, engagements and candidates, of the log's columns and of its days."""

from datetime import datetime, timedelta

from core.schema import ENGAGEMENT_KINDS, HEADS, NEGATIVE_HEADS, TABLES
from validation.rules import (
    Rule,
    Suite,
    filled,
    holds,
    mean_within,
    never_null,
    newest_since,
    not_before,
    num_rows_at_least,
    one_of,
    within,
)
from validation.suites import dimensions
from validation.suites.dimensions import dated, event_id, known
from validation.tables import type_name

REQUIRED_TABLES = ("users", "creators", "posts", "impressions", "engagements")
"""Tables without which no feed can be learned; the others may be absent."""

LOWEST_POSITION = 10_000
FRESHNESS = timedelta(days=3)
MOST_DAILY = {kind: 0.98 if kind not in NEGATIVE_HEADS else 0.3 for kind in HEADS}
"""Largest plausible share of a day's impressions with each engagement; above it the join or the log is broken."""


def log_suites(end_at: datetime) -> dict[str, Suite]:
    """The suite of every log table by name, in the order in which one may rely on the others."""
    builders = (
        dimensions.users,
        dimensions.creators,
        dimensions.posts,
        dimensions.follows,
        requests,
        impressions,
        engagements,
        candidates,
    )
    return {suite.name: suite for suite in (build(end_at) for build in builders)}


def columns_suite(gate: str) -> Suite:
    """Suite over one row per declared column of a gate's tables: every file has it, with the declared type."""
    pair = {"column_A": "found", "column_B": "declared", "ignore_row_if": "neither"}
    reason = "a column is missing or of another type"
    rules = (
        num_rows_at_least(1),
        Rule("expect_column_pair_values_to_be_equal", pair, reason, "table"),
    )
    return Suite(f"{gate}_columns", f"columns of {gate}", rules)


def log_types(table: str) -> dict[str, str]:
    """Declared type of every column of a log table, as `tables.type_name` writes it."""
    return {column.name: type_name(column.type) for column in TABLES[table].columns}


def requests(end_at: datetime) -> Suite:
    """Suite of the requests table; nothing may have happened after `end_at`."""
    rules = (
        never_null("request_id"),
        within("request_id", 1, reason="request_id is not positive"),
        *known("user_id", "user_is_known", "users"),
        never_null("session_id"),
        never_null("surface"),
        *dated("requests", end_at),
    )
    return Suite("requests", "requests", rules)


def impressions(end_at: datetime) -> Suite:
    """Suite of the impressions table; nothing may have happened after `end_at`, the newest row is recent."""
    rules = (
        num_rows_at_least(1),
        *event_id(),
        *known("user_id", "user_is_known", "users"),
        *known("post_id", "post_is_known", "posts"),
        never_null("creator_id"),
        holds("creator_is_of_post", "creator_id is not the post's creator"),
        holds("request_is_known", "request_id is not in requests"),
        never_null("surface"),
        within("position", 0, LOWEST_POSITION),
        within("propensity", 0.0, 1.0),
        never_null("is_time_imputed"),
        not_before("event_at", "served_at", "the post was seen before it was served"),
        *dated("impressions", end_at),
        filled("user_id", 0.95),
        filled("post_id", 0.95),
        newest_since("event_at", end_at - FRESHNESS),
    )
    return Suite("impressions", "impressions", rules)


def engagements(end_at: datetime) -> Suite:
    """Suite of the engagements table; nothing may have happened after `end_at`, the newest row is recent."""
    rules = (
        num_rows_at_least(1),
        *event_id(),
        holds("impression_is_known", "impression_id is not in impressions"),
        holds("is_of_impression", "user_id or post_id is not the impression's"),
        not_before("event_at", "impression_at", "the user acted before the impression"),
        *known("user_id", "user_is_known", "users"),
        *known("post_id", "post_is_known", "posts"),
        never_null("creator_id"),
        holds("creator_is_of_post", "creator_id is not the post's creator"),
        never_null("kind"),
        one_of("kind", ENGAGEMENT_KINDS),
        within("dwell_seconds", 0.0, 86_400.0),
        never_null("is_time_imputed"),
        *dated("engagements", end_at),
        filled("user_id", 0.95),
        newest_since("event_at", end_at - FRESHNESS),
    )
    return Suite("engagements", "engagements", rules)


def candidates(end_at: datetime) -> Suite:
    """Suite of the candidates table; nothing may have happened after `end_at`."""
    rules = (
        never_null("request_id"),
        *known("user_id", "user_is_known", "users"),
        *known("post_id", "post_is_known", "posts"),
        never_null("score"),
        within("rank", 0),
        within("num_candidates", 1),
        holds("rank_is_within", "rank is not below num_candidates"),
        *dated("candidates", end_at),
    )
    return Suite("candidates", "candidates", rules)


def events_by_day() -> Suite:
    """Suite over one row per day: volume beside the median day (inner days only) and engagements per impression."""
    rules = (
        num_rows_at_least(1),
        within("impressions.volume", 0.02, 50.0, "too many days have a volume far from the median day's", "table", 0.8),
        mean_within("engagements.rate_any", 1e-4, 5.0),
        *(
            within(
                f"engagements.rate_{kind}", 0.0, MOST_DAILY[kind], f"a day has too many {kind} per impression", "table"
            )
            for kind in HEADS
        ),
    )
    return Suite("events_by_day", "days of the log", rules)
