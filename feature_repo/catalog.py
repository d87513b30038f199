"""Every feature view and feature by name, type, length and meaning. No Feast here, so it imports fast.

`definitions.py` turns this into Feast objects, `build.py` writes tables of these columns, and
`columns.py` reads lengths and null conventions from it; a feature is declared once, here.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from core.schema import CONTENT_DIM, HEADS, MEDIA_TYPES, NEGATIVE_HEADS

DType = Literal["float", "int", "str", "ints", "floats"]

PROJECT = "vitrine"
JOIN_KEYS = {"user": "user_id", "post": "post_id", "creator": "creator_id"}
"""Join key of each entity."""

WINDOWS: dict[str, int | None] = {"1h": 1, "24h": 24, "7d": 168, "total": None}
"""Window length in hours by name; None counts from the beginning."""

PUBLISH_LAG = timedelta(minutes=5)
"""From the end of an hour to the moment its features can be read."""

PRIOR_RATES = {
    "click": 0.10,
    "like": 0.03,
    "comment": 0.005,
    "share": 0.005,
    "save": 0.01,
    "follow": 0.003,
    "long_view": 0.10,
    "see_less": 0.002,
    "report": 0.0005,
}
"""What a rate is before any impression was counted; fixed, so that a rate never depends on other rows."""

PRIOR_IMPRESSIONS = 20.0
"""Strength of the prior: rate = (n + PRIOR_RATES * PRIOR_IMPRESSIONS) / (impressions + PRIOR_IMPRESSIONS)."""

KIND_WEIGHTS = {"click": 1.0, "long_view": 1.5, "like": 2.0, "comment": 3.0, "save": 3.0, "share": 3.5, "follow": 4.0}
"""Strength of a positive engagement for history, centroid and affinities."""

POSITIVE_KINDS = tuple(k for k in HEADS if k not in NEGATIVE_HEADS)

HISTORY_LENGTH = 50
AFFINITY_LENGTH = 20
AFFINITY_EVENTS = 200
AFFINITY_HALF_LIFE_HOURS = 168.0
FOLLOWED_LENGTH = 200
CODES_LENGTH = 32

FOREVER = timedelta(days=3650)
"""Time to live of state that holds until replaced; finite, because Feast starts a first
`materialize-incremental` at now minus this."""


@dataclass(frozen=True)
class FeatureField:
    """One feature: name within its view, type, fixed length of a list (0 for scalars), meaning."""

    name: str
    dtype: DType
    meaning: str
    length: int = 0


OWNER = "feature-platform"


def tags(description: str, grain: str, freshness: str, owner: str = OWNER) -> dict[str, str]:
    """The tags that every feature view carries: what it is, what a row is, how old it may be, who answers for it."""
    return {"description": description, "grain": grain, "freshness": freshness, "owner": owner}


@dataclass(frozen=True)
class View:
    """One stored feature view; the table also has the join key, event_at and known_at."""

    name: str
    entity: str
    grain: str
    freshness: str
    description: str
    fields: tuple[FeatureField, ...]
    ttl: timedelta = FOREVER
    owner: str = OWNER

    @property
    def join_key(self) -> str:
        return JOIN_KEYS[self.entity]

    @property
    def tags(self) -> dict[str, str]:
        """What Feast's registry says of the view."""
        return tags(self.description, self.grain, self.freshness, self.owner)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the stored table, in order."""
        return (self.join_key, *(f.name for f in self.fields), "event_at", "known_at")


def _activity_fields(of: str) -> tuple[FeatureField, ...]:
    fields: list[FeatureField] = []
    for window in WINDOWS:
        span = "ever" if window == "total" else f"in the {window} before the hour's end"
        fields.append(FeatureField(f"num_impressions_{window}", "float", f"impressions {of} {span}"))
        for kind in HEADS:
            fields.append(FeatureField(f"num_{kind}_{window}", "float", f"{kind} engagements {of} {span}"))
            fields.append(FeatureField(f"rate_{kind}_{window}", "float", f"smoothed {kind} rate {of} {span}"))
    return tuple(fields)


_HOURLY = "hourly, published 5 minutes after the hour"

USER_PROFILE = View(
    "user_profile",
    "user",
    "one row per change of profile and per hour with a follow or unfollow",
    _HOURLY,
    "Who the user is and whom they follow.",
    (
        FeatureField("country", "str", "ISO 3166 code"),
        FeatureField("language", "str", "ISO 639 code"),
        FeatureField("profile_codes", "ints", "categorical attributes by position, -1 unknown", CODES_LENGTH),
        FeatureField("num_follows", "float", "creators followed"),
        FeatureField("followed_creator_ids", "ints", "creators followed, newest first", FOLLOWED_LENGTH),
        FeatureField("followed_centroid", "floats", "mean content embedding of the creators followed", CONTENT_DIM),
        FeatureField("registered_at", "int", "first seen, unix seconds"),
    ),
)

USER_ACTIVITY = View(
    "user_activity",
    "user",
    "one row per user and hour in which a windowed count changes, falls included",
    _HOURLY,
    "How much the user saw and did, per engagement type and window.",
    _activity_fields("of the user"),
)

USER_HISTORY = View(
    "user_history",
    "user",
    "one row per user and hour with a new positive engagement",
    _HOURLY,
    "The posts the user engaged with last, and the centre of their content.",
    (
        FeatureField("history_post_ids", "ints", "engaged posts, newest first", HISTORY_LENGTH),
        FeatureField("history_creator_ids", "ints", "their creators", HISTORY_LENGTH),
        FeatureField("history_topic_ids", "ints", "their topics", HISTORY_LENGTH),
        FeatureField("history_kinds", "ints", "index in core.schema.HEADS of the strongest engagement", HISTORY_LENGTH),
        FeatureField("history_at", "ints", "last engagement with the post, unix seconds", HISTORY_LENGTH),
        FeatureField("content_centroid", "floats", "mean content embedding of the history, by strength", CONTENT_DIM),
    ),
)

USER_AFFINITY = View(
    "user_affinity",
    "user",
    "one row per user and hour with a new positive engagement",
    _HOURLY,
    "Share of the user's engagements, halved every 7 days, by creator, topic and media type.",
    (
        FeatureField("top_creator_ids", "ints", "creators by share, largest first", AFFINITY_LENGTH),
        FeatureField("top_creator_affinities", "floats", "their shares, 0 to 1", AFFINITY_LENGTH),
        FeatureField("top_topic_ids", "ints", "topics by share, largest first", AFFINITY_LENGTH),
        FeatureField("top_topic_affinities", "floats", "their shares, 0 to 1", AFFINITY_LENGTH),
        FeatureField(
            "media_type_affinities", "floats", "share of each of core.schema.MEDIA_TYPES, in order", len(MEDIA_TYPES)
        ),
    ),
)

POST_PROFILE = View(
    "post_profile",
    "post",
    "one row per change of the post",
    "with the catalogue, minutes after publication",
    "What the post is.",
    (
        FeatureField("post_key", "int", "the post itself, for models that keep a vector per post"),
        FeatureField("creator_id", "int", "creator of the post"),
        FeatureField("topic_id", "int", "leaf topic, -1 unknown"),
        FeatureField("language", "str", "ISO 639 code"),
        FeatureField("country", "str", "ISO 3166 code of the creator's market"),
        FeatureField("media_type", "str", f"one of {', '.join(MEDIA_TYPES)}"),
        FeatureField("duration_seconds", "float", "length or estimated reading time"),
        FeatureField("integrity_score", "float", "1 harmless to 0 violating"),
        FeatureField("created_at", "int", "publication, unix seconds"),
        FeatureField("content_codes", "ints", "categorical attributes by position, -1 unknown", CODES_LENGTH),
        FeatureField("content_embedding", "floats", "unit vector from a content encoder", CONTENT_DIM),
    ),
)

POST_ACTIVITY = View(
    "post_activity",
    "post",
    "one row per post and hour in which a windowed count changes, falls included",
    _HOURLY,
    "How often the post was seen and acted on, per engagement type and window.",
    _activity_fields("of the post"),
)

CREATOR_PROFILE = View(
    "creator_profile",
    "creator",
    "one row per change of profile and per hour in which a count changes, falls included",
    _HOURLY,
    "Who the creator is, how many follow them and how much they publish.",
    (
        FeatureField("country", "str", "ISO 3166 code"),
        FeatureField("language", "str", "ISO 639 code"),
        FeatureField("num_followers", "float", "users who follow the creator"),
        FeatureField("num_posts", "float", "posts published"),
        FeatureField("num_posts_7d", "float", "posts published in the 7 days before the hour's end"),
    ),
)

CREATOR_ACTIVITY = View(
    "creator_activity",
    "creator",
    "one row per creator and hour in which a windowed count changes, falls included",
    _HOURLY,
    "How often the creator's posts were seen and acted on, per engagement type and window.",
    _activity_fields("of the creator's posts"),
)

VIEWS: dict[str, View] = {
    v.name: v
    for v in (
        USER_PROFILE,
        USER_ACTIVITY,
        USER_HISTORY,
        USER_AFFINITY,
        POST_PROFILE,
        POST_ACTIVITY,
        CREATOR_PROFILE,
        CREATOR_ACTIVITY,
    )
}
"""Views that the build computes from the log, by name."""

FOUNDATION_HEADS = ("click", "like", "long_view")
"""Engagements for which the foundation model exports a vector of the user."""

FOUNDATION_DIM = 33
"""Width of the foundation model's vectors."""

_EXPORTED = "at every export (`python -m training foundation`), for the whole history"

USER_FOUNDATION = View(
    "user_foundation",
    "user",
    "one row per user and hour with new events, per registration, and per change of the model's weights",
    _EXPORTED,
    "The foundation model's state of the user after everything seen and done.",
    (
        *(
            FeatureField(
                head, "floats", f"its product with the post's vector is the log odds of {head}", FOUNDATION_DIM
            )
            for head in FOUNDATION_HEADS
        ),
        FeatureField("num_events", "float", "events of the user that the state has read"),
        FeatureField("weights_age_hours", "float", "from the last event the weights learned from to the row"),
    ),
)

POST_FOUNDATION = View(
    "post_foundation",
    "post",
    "one row per post, and per change of the model's weights",
    _EXPORTED,
    "The foundation model's vector of the post, made from what it is.",
    (
        FeatureField(
            "vector", "floats", "the post's vector, in the space of the users'; its last entry is 1", FOUNDATION_DIM
        ),
        FeatureField("weights_age_hours", "float", "from the last event the weights learned from to the row"),
    ),
)

EXPORTED_VIEWS: dict[str, View] = {v.name: v for v in (USER_FOUNDATION, POST_FOUNDATION)}
"""Views that a model fills (`feature_repo/exported.py`), not the build; without rows until its first export."""

ALL_VIEWS: dict[str, View] = VIEWS | EXPORTED_VIEWS
"""Every stored view by name."""

CROSS_VIEW = "user_post_cross"
CROSS_TAGS = tags(
    "What a user and a post have in common at the moment of ranking.",
    "one row per request and post, computed and never stored",
    "at the request",
)
REQUEST_TIME = "requested_at"
"""Request column of the on-demand view: the instant of ranking, unix seconds."""

CROSS_FIELDS = (
    FeatureField("post_age_hours", "float", "hours since publication at the request"),
    FeatureField("user_creator_affinity", "float", "share of the user's engagements with the post's creator"),
    FeatureField("user_topic_affinity", "float", "share of the user's engagements with the post's topic"),
    FeatureField("user_media_affinity", "float", "share of the user's engagements with the post's media type"),
    FeatureField("is_followed", "float", "1 where the user follows the creator"),
    FeatureField("is_same_language", "float", "1 where post and user share a language, null where unknown"),
    FeatureField("is_same_country", "float", "1 where post and user share a country, null where unknown"),
    FeatureField("history_creator_matches", "float", "posts of this creator in the user's history"),
    FeatureField("history_topic_matches", "float", "posts of this topic in the user's history"),
    FeatureField("content_similarity", "float", "cosine of the user's centroid and the post's embedding, null unknown"),
    FeatureField(
        "followed_similarity", "float", "cosine of the followed centroid and the post's embedding, null unknown"
    ),
)

CROSS_SOURCES: dict[str, tuple[str, ...]] = {
    "user_profile": ("country", "language", "followed_creator_ids", "followed_centroid"),
    "user_history": ("history_creator_ids", "history_topic_ids", "content_centroid"),
    "user_affinity": (
        "top_creator_ids",
        "top_creator_affinities",
        "top_topic_ids",
        "top_topic_affinities",
        "media_type_affinities",
    ),
    "post_profile": ("creator_id", "topic_id", "language", "country", "media_type", "created_at", "content_embedding"),
}
"""Stored features that the on-demand view reads."""

ENTITY_VIEWS: dict[str, tuple[str, ...]] = {
    entity: tuple(v.name for v in ALL_VIEWS.values() if v.entity == entity) for entity in JOIN_KEYS
}
"""Stored views of each entity."""

FIELDS: dict[str, FeatureField] = {f"{v.name}__{f.name}": f for v in ALL_VIEWS.values() for f in v.fields} | {
    f"{CROSS_VIEW}__{f.name}": f for f in CROSS_FIELDS
}
"""Every feature by its full name `view__feature`."""

LIST_LENGTHS: dict[str, int] = {name: f.length for name, f in FIELDS.items() if f.length}
"""Fixed length of every list feature in `Columns`."""
