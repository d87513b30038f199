"""Which features each model reads, in which form. Columns are named by the feature catalogue.

Counts go through log1p, smoothed rates through logit, ages and durations through log1p; what is null
is null for a reason (a new user, an unseen post) and keeps its own flag. Embedding tables are sized by
the ids in the training rows: dense ids get a row each, others are hashed into twice as many rows.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.schema import CONTENT_DIM, HEADS, MEDIA_TYPES
from feature_repo.catalog import CODES_LENGTH, FOUNDATION_DIM, FOUNDATION_HEADS
from models.features import Feature, Side
from models.semantic_ids import NUM_CODES, NUM_LEVELS

MIN_TABLE_ROWS = 64
MAX_TABLE_ROWS = 2_000_000
SEMANTIC_ROWS = 2**17
ID_TABLES = ("post", "creator", "topic")
"""Tables that grow with the product."""
FREQUENT_HEADS = ("click", "like", "long_view")


@dataclass(frozen=True)
class Widths:
    """Widths of the embedding tables."""

    post: int = 16
    creator: int = 16
    topic: int = 8
    word: int = 4
    code: int = 8


def table_rows(*id_columns: NDArray[Any]) -> int:
    """Rows for a table of the ids in these columns: one each when numbered densely, else twice their number."""
    ids = np.unique(np.concatenate([np.unique(column) for column in id_columns]))
    ids = ids[ids >= 0]
    if not len(ids):
        return MIN_TABLE_ROWS
    largest = int(ids[-1])
    wanted = largest + 2 if largest < 4 * len(ids) + 1_000 else 2 * len(ids)
    # Room for the ids that appear after training: they share rows rather than fail.
    return int(min(max(wanted + wanted // 10, MIN_TABLE_ROWS), MAX_TABLE_ROWS))


def _activity(view: str, side: Side) -> list[Feature]:
    counts = [f"num_impressions_{window}" for window in ("1h", "24h", "7d", "total")]
    counts += [f"num_click_{window}" for window in ("24h", "total")]
    rates = [f"rate_{head}_{window}" for window in ("7d", "total") for head in HEADS]
    rates += [f"rate_{head}_24h" for head in FREQUENT_HEADS] + ["rate_click_1h"]
    return [Feature(f"{view}__{name}", side, "numeric", "log1p") for name in counts] + [
        Feature(f"{view}__{name}", side, "numeric", "logit") for name in rates
    ]


def _word(name: str, side: Side, table: str, width: int) -> Feature:
    return Feature(name, side, "categorical", table=table, num_rows=257, dim=width)


def user_features(columns: Mapping[str, NDArray[Any]], widths: Widths, history_length: int) -> list[Feature]:
    """Who asks, what they did, and the circumstances of the request."""
    posts = _post_rows(columns)
    creators = _creator_rows(columns)
    topics = _topic_rows(columns)
    return [
        *_activity("user_activity", "user"),
        Feature("user_profile__num_follows", "user", "numeric", "log1p"),
        _word("user_profile__country", "user", "country", widths.word),
        _word("user_profile__language", "user", "language", widths.word),
        Feature(
            "user_profile__profile_codes",
            "user",
            "codes",
            table="profile_code",
            num_rows=2_048,
            dim=widths.code,
            length=CODES_LENGTH,
        ),
        *(
            Feature(
                f"user_history__history_{what}",
                "user",
                "sequence",
                table=table,
                num_rows=rows,
                dim=width,
                length=history_length,
                group="history",
            )
            for what, table, rows, width in (
                ("post_ids", "post", posts, widths.post),
                ("creator_ids", "creator", creators, widths.creator),
                ("topic_ids", "topic", topics, widths.topic),
                ("kinds", "kind", 16, 4),
            )
        ),
        Feature("user_history__content_centroid", "user", "embedding", dim=CONTENT_DIM),
        Feature("user_profile__followed_centroid", "user", "embedding", dim=CONTENT_DIM),
        Feature(
            "user_affinity__top_creator_ids",
            "user",
            "sequence",
            table="creator",
            num_rows=creators,
            dim=widths.creator,
            length=10,
        ),
        Feature(
            "user_affinity__top_topic_ids",
            "user",
            "sequence",
            table="topic",
            num_rows=topics,
            dim=widths.topic,
            length=5,
        ),
        Feature("user_affinity__media_type_affinities", "user", "embedding", dim=len(MEDIA_TYPES)),
        Feature("request__hour", "user", "categorical", table="hour", num_rows=26, dim=4),
        Feature("request__weekday", "user", "categorical", table="weekday", num_rows=9, dim=4),
        *(_word(f"request__{name}", "user", f"request_{name}", widths.word) for name in ("device", "surface")),
        _word("request__country", "user", "country", widths.word),
        _word("request__language", "user", "language", widths.word),
    ]


def post_features(columns: Mapping[str, NDArray[Any]], widths: Widths) -> list[Feature]:
    """What the post is, how it fares, and its creator."""
    return [
        *_activity("post_activity", "post"),
        *_activity("creator_activity", "post"),
        Feature(
            "post_profile__creator_id",
            "post",
            "categorical",
            table="creator",
            num_rows=_creator_rows(columns),
            dim=widths.creator,
        ),
        Feature(
            "post_profile__topic_id",
            "post",
            "categorical",
            table="topic",
            num_rows=_topic_rows(columns),
            dim=widths.topic,
        ),
        _word("post_profile__language", "post", "language", widths.word),
        _word("post_profile__country", "post", "country", widths.word),
        _word("post_profile__media_type", "post", "media_type", widths.word),
        Feature("post_profile__duration_seconds", "post", "numeric", "log1p"),
        Feature("post_profile__integrity_score", "post", "numeric"),
        Feature(
            "post_profile__content_codes",
            "post",
            "codes",
            table="content_code",
            num_rows=2_048,
            dim=widths.code,
            length=CODES_LENGTH,
        ),
        Feature("post_profile__content_embedding", "post", "embedding", dim=CONTENT_DIM),
        Feature("creator_profile__num_followers", "post", "numeric", "log1p"),
        Feature("creator_profile__num_posts", "post", "numeric", "log1p"),
        Feature("creator_profile__num_posts_7d", "post", "numeric", "log1p"),
    ]


def semantic_features(widths: Widths) -> list[Feature]:
    """The post's content as codes, one table per level; levels behind the second are hashed."""
    rows = [min(NUM_CODES**level + 2, SEMANTIC_ROWS) for level in range(1, NUM_LEVELS + 1)]
    return [
        Feature(
            f"post_profile__semantic_{level}",
            "post",
            "categorical",
            table=f"semantic_{level}",
            num_rows=num_rows,
            dim=widths.code,
            source="post_profile__content_embedding",
            level=level,
        )
        for level, num_rows in enumerate(rows, start=1)
    ]


def post_identity(columns: Mapping[str, NDArray[Any]], widths: Widths) -> Feature:
    """The post itself, in the table that the history's posts share."""
    return Feature(
        "post_profile__post_key", "post", "categorical", table="post", num_rows=_post_rows(columns), dim=widths.post
    )


def cross_features() -> list[Feature]:
    """What user and post have in common at the moment of ranking."""
    logs = ("post_age_hours", "history_creator_matches", "history_topic_matches")
    plain = (
        "user_creator_affinity",
        "user_topic_affinity",
        "user_media_affinity",
        "is_followed",
        "is_same_language",
        "is_same_country",
        "content_similarity",
        "followed_similarity",
    )
    return [Feature(f"user_post_cross__{name}", "cross", "numeric", "log1p") for name in logs] + [
        Feature(f"user_post_cross__{name}", "cross", "numeric") for name in plain
    ]


def foundation_features() -> list[Feature]:
    """The foundation model's vectors, of which the second stage reads the products of user and post."""
    users = [
        Feature(f"user_foundation__{head}", "user", "embedding", dim=FOUNDATION_DIM, group="foundation")
        for head in FOUNDATION_HEADS
    ]
    return [
        *users,
        Feature("user_foundation__num_events", "user", "numeric", "log1p"),
        Feature("post_foundation__vector", "post", "embedding", dim=FOUNDATION_DIM, group="foundation"),
    ]


def recipe_columns(has_crosses: bool, has_foundation: bool = False) -> tuple[str, ...]:
    """Names of every column that a recipe reads, sorted."""
    unsized: Mapping[str, NDArray[Any]] = defaultdict(lambda: np.zeros(1, dtype=np.int64))
    widths = Widths()
    features = user_features(unsized, widths, 1) + post_features(unsized, widths)
    if has_crosses:
        features += [post_identity(unsized, widths), *cross_features()]
    if has_foundation:
        features += foundation_features()
    return tuple(sorted(f.name for f in features))


def _post_rows(columns: Mapping[str, NDArray[Any]]) -> int:
    """Rows of the table that history and candidates share; the towers' columns have no candidate key."""
    candidates = [columns["post_profile__post_key"]] if "post_profile__post_key" in columns else []
    return table_rows(columns["user_history__history_post_ids"], *candidates)


def _creator_rows(columns: Mapping[str, NDArray[Any]]) -> int:
    return table_rows(columns["post_profile__creator_id"], columns["user_history__history_creator_ids"])


def _topic_rows(columns: Mapping[str, NDArray[Any]]) -> int:
    return table_rows(columns["post_profile__topic_id"], columns["user_history__history_topic_ids"])
