"""Users' events without a log, for tests of what reads sequences."""

import numpy as np

from core.schema import CONTENT_DIM, ENGAGEMENT_KINDS
from feature_repo.columns import null_columns
from models.foundation import EVENT_FLAGS
from training.foundation_events import SEEN, Catalogue, UserEvents

ALL_KINDS = sum(1 << EVENT_FLAGS.index(kind) for kind in ENGAGEMENT_KINDS)
CLICKED = SEEN | 1 << EVENT_FLAGS.index("click")
USER_COLUMNS = tuple(f"user_profile__{name}" for name in ("country", "language", "profile_codes"))
POST_COLUMNS = tuple(
    f"post_profile__{name}"
    for name in (
        *("post_key", "creator_id", "topic_id", "language", "country", "media_type", "duration_seconds"),
        *("integrity_score", "content_codes", "content_embedding"),
    )
)


def event_sequences(sizes, posts=None, flags=None):
    """Users with so many events, one an hour from hour 0 on, each of an impression of its own."""
    first = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    count = int(first[-1])
    hour = np.concatenate([np.arange(size) for size in sizes]).astype(np.int64)
    return UserEvents(
        user_ids=np.arange(len(sizes)),
        from_hour=np.full(len(sizes), -1),
        columns=null_columns(USER_COLUMNS, len(sizes)),
        first=first,
        hour=hour,
        at=hour * 3600.0 - 1800.0,
        served_at=hour * 3600.0 - 1800.0,
        post=np.zeros(count, dtype=np.int64) if posts is None else posts,
        flags=np.full(count, SEEN) if flags is None else flags,
        observed=np.full(count, ALL_KINDS),
        impression=np.arange(count),
    )


def catalogue_of(topics):
    """Posts of these topics, each of a creator of its own, known before the first hour."""
    count = len(topics)
    columns = null_columns(POST_COLUMNS, count)
    columns["post_profile__topic_id"] = np.asarray(topics, dtype=np.int64)
    columns["post_profile__post_key"] = columns["post_profile__creator_id"] = np.arange(count)
    columns["post_profile__content_embedding"] = np.eye(CONTENT_DIM, dtype=np.float32)[np.asarray(topics)]
    return Catalogue(np.arange(count), np.full(count, -1), columns)
