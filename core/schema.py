"""The Arrow schema of every table: grain, key, and unit and meaning of each column.

Instants are microsecond UTC timestamps. `event_at` is when a fact was true, `known_at` when the
platform could first have used it; `known_at >= event_at` always. Ids of users, posts and creators
are int64 inside the platform; `external_id` keeps the product's own string.
"""

from dataclasses import dataclass

import pyarrow as pa

HEADS = ("click", "like", "comment", "share", "save", "follow", "long_view", "see_less", "report")
"""Engagements that the second stage predicts, in the order of its outputs."""

NEGATIVE_HEADS = ("see_less", "report")

ENGAGEMENT_KINDS = (*HEADS, "hide", "block")
"""Everything a user can do to a post; hide and block also act on the user's next feed."""

MEDIA_TYPES = ("image", "video", "carousel", "text")

CONTENT_DIM = 32
"""Width of a post's content embedding."""

INSTANT = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Column:
    """One column: type, meaning with unit, and whether null is a legal value."""

    name: str
    type: pa.DataType
    meaning: str
    is_nullable: bool = False


@dataclass(frozen=True)
class TableSchema:
    """One table of the log: what a row is, what identifies it, its columns."""

    name: str
    grain: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def arrow(self) -> pa.Schema:
        """The schema as Arrow has it, meanings kept as field metadata."""
        return pa.schema(
            [pa.field(c.name, c.type, nullable=c.is_nullable, metadata={"meaning": c.meaning}) for c in self.columns]
        )


_EVENT_AT = Column("event_at", INSTANT, "instant at which the fact was true")
_KNOWN_AT = Column("known_at", INSTANT, "instant from which the platform could use the fact")

USERS = TableSchema(
    "users",
    "One row per user and change of profile; the latest row holds.",
    ("user_id", "event_at"),
    (
        Column("user_id", pa.int64(), "user"),
        Column("external_id", pa.string(), "the product's own id"),
        Column("country", pa.string(), "ISO 3166 code, upper case", True),
        Column("language", pa.string(), "ISO 639 code, lower case", True),
        Column("profile_codes", pa.list_(pa.int32()), "categorical attributes by position, -1 unknown; not personal"),
        _EVENT_AT,
        _KNOWN_AT,
    ),
)

CREATORS = TableSchema(
    "creators",
    "One row per creator and change of profile; the latest row holds.",
    ("creator_id", "event_at"),
    (
        Column("creator_id", pa.int64(), "creator"),
        Column("external_id", pa.string(), "the product's own id"),
        Column("country", pa.string(), "ISO 3166 code, upper case", True),
        Column("language", pa.string(), "ISO 639 code, lower case", True),
        _EVENT_AT,
        _KNOWN_AT,
    ),
)

POSTS = TableSchema(
    "posts",
    "One row per post and change of it; event_at of the first row is its creation, the latest row holds.",
    ("post_id", "event_at"),
    (
        Column("post_id", pa.int64(), "post"),
        Column("external_id", pa.string(), "the product's own id"),
        Column("creator_id", pa.int64(), "creator of the post"),
        Column("created_at", INSTANT, "instant of publication"),
        Column("media_type", pa.string(), f"one of {', '.join(MEDIA_TYPES)}"),
        Column("language", pa.string(), "ISO 639 code, lower case", True),
        Column("country", pa.string(), "ISO 3166 code of the creator's market, upper case", True),
        Column("topic_id", pa.int64(), "leaf topic from the product's classifier or tags, -1 unknown"),
        Column("duration_seconds", pa.float32(), "length of the video or estimated reading time in seconds", True),
        Column("integrity_score", pa.float32(), "1 harmless to 0 violating", True),
        Column("is_recommendable", pa.bool_(), "false keeps the post out of every feed"),
        Column("content_codes", pa.list_(pa.int32()), "categorical attributes by position, -1 unknown"),
        Column("content_embedding", pa.list_(pa.float32(), CONTENT_DIM), "unit vector from a content encoder", True),
        _EVENT_AT,
        _KNOWN_AT,
    ),
)

FOLLOWS = TableSchema(
    "follows",
    "One row per follow or unfollow of a creator by a user; the latest row holds.",
    ("event_id",),
    (
        Column("event_id", pa.string(), "idempotency key"),
        Column("user_id", pa.int64(), "who follows"),
        Column("creator_id", pa.int64(), "who is followed"),
        Column("is_active", pa.bool_(), "true follow, false unfollow"),
        _EVENT_AT,
        _KNOWN_AT,
    ),
)

REQUESTS = TableSchema(
    "requests",
    "One row per feed request; event_at is the serve time.",
    ("request_id",),
    (
        Column("request_id", pa.int64(), "request, positive"),
        Column("user_id", pa.int64(), "who asked"),
        Column("session_id", pa.int64(), "visit the request belongs to"),
        Column("surface", pa.string(), "where the feed is shown, such as explore"),
        Column("country", pa.string(), "country of the request", True),
        Column("language", pa.string(), "language of the request", True),
        Column("device", pa.string(), "ios, android or web", True),
        Column("spec_version", pa.string(), "funnel spec or logging policy that answered"),
        _EVENT_AT,
        _KNOWN_AT,
    ),
)

CANDIDATES = TableSchema(
    "candidates",
    "One row per candidate of a sampled request that was ranked in full; event_at is the serve time.",
    ("request_id", "post_id"),
    (
        Column("request_id", pa.int64(), "request"),
        Column("user_id", pa.int64(), "who asked"),
        Column("post_id", pa.int64(), "candidate"),
        Column("sources", pa.list_(pa.string()), "every source that brought it"),
        Column("score", pa.float32(), "value-model score of the second stage"),
        Column("rank", pa.int32(), "place by score within the request, 0 best"),
        Column("num_candidates", pa.int32(), "candidates of the request"),
        _EVENT_AT,
        _KNOWN_AT,
    ),
)

IMPRESSIONS = TableSchema(
    "impressions",
    "One row per post seen by a user in one request; event_at is when it was seen.",
    ("event_id",),
    (
        Column("event_id", pa.string(), "idempotency key"),
        Column("request_id", pa.int64(), "request that showed it; null where the log has none", True),
        Column("user_id", pa.int64(), "who saw it"),
        Column("post_id", pa.int64(), "what was seen"),
        Column("creator_id", pa.int64(), "creator of the post"),
        Column("surface", pa.string(), "where it was shown"),
        Column("position", pa.int32(), "place in the slate, 0 first", True),
        Column("served_at", INSTANT, "serve time of the ranking that showed it; null where not logged", True),
        Column("sources", pa.list_(pa.string()), "sources that brought the post", True),
        Column("propensity", pa.float32(), "probability of showing this post at this position", True),
        Column("spec_version", pa.string(), "funnel spec or logging policy", True),
        Column("model_versions", pa.string(), "comma-separated kind=bundle id", True),
        Column(
            "observed_kinds", pa.list_(pa.string()), "engagement kinds the log records for this row; null all", True
        ),
        Column("is_time_imputed", pa.bool_(), "true where event_at only keeps the order of events"),
        _EVENT_AT,
        _KNOWN_AT,
    ),
)

ENGAGEMENTS = TableSchema(
    "engagements",
    "One row per action of a user on an impression; event_at is when the user acted.",
    ("event_id",),
    (
        Column("event_id", pa.string(), "idempotency key"),
        Column("impression_id", pa.string(), "event_id of the impression; null for actions outside a feed", True),
        Column("request_id", pa.int64(), "request that showed the post", True),
        Column("user_id", pa.int64(), "who acted"),
        Column("post_id", pa.int64(), "on what"),
        Column("creator_id", pa.int64(), "creator of the post"),
        Column("kind", pa.string(), f"one of {', '.join(ENGAGEMENT_KINDS)}"),
        Column("dwell_seconds", pa.float32(), "seconds spent; on click and long_view rows", True),
        Column("is_time_imputed", pa.bool_(), "true where event_at only keeps the order of events"),
        _EVENT_AT,
        _KNOWN_AT,
    ),
)

TABLES = {t.name: t for t in (USERS, CREATORS, POSTS, FOLLOWS, REQUESTS, CANDIDATES, IMPRESSIONS, ENGAGEMENTS)}
"""Every table of the log by name."""
