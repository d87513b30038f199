"""The world as Arrow tables of the log's schemas."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from core.schema import CONTENT_DIM, HEADS, INSTANT, MEDIA_TYPES, TABLES
from events.synthetic.config import WorldConfig
from events.synthetic.creators import Creators
from events.synthetic.follows import Ties
from events.synthetic.policy import SOURCES
from events.synthetic.posts import Posts
from events.synthetic.sessions import Requests
from events.synthetic.simulate import Seen
from events.synthetic.users import DEVICES, Users

POLICY_VERSION = "logging_policy_v1"
SURFACE = "explore"

_CLICK, _FOLLOW, _LONG_VIEW = HEADS.index("click"), HEADS.index("follow"), HEADS.index("long_view")


def users_table(config: WorldConfig, users: Users) -> pa.Table:
    """Table `users`: one row each, at registration."""
    return _table(
        "users",
        users.registered_at,
        {
            "user_id": np.arange(users.count),
            "external_id": _text("", np.arange(users.count)),
            "country": _taken([m.country for m in config.markets], users.market),
            "language": _taken(config.languages, users.language),
            "profile_codes": _rows_of(users.profile_codes),
        },
    )


def creators_table(config: WorldConfig, creators: Creators) -> pa.Table:
    """Table `creators`: one row each, at joining."""
    return _table(
        "creators",
        creators.joined_at,
        {
            "creator_id": np.arange(creators.count),
            "external_id": _text("", np.arange(creators.count)),
            "country": _taken([m.country for m in config.markets], creators.market),
            "language": _taken(config.languages, creators.language),
        },
    )


def posts_table(config: WorldConfig, posts: Posts) -> pa.Table:
    """Table `posts`: one row each, at publication."""
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(posts.content_embedding.ravel()), CONTENT_DIM)
    return _table(
        "posts",
        posts.created_at,
        {
            "post_id": np.arange(posts.count),
            "external_id": _text("", np.arange(posts.count)),
            "creator_id": posts.creator,
            "created_at": _instants(posts.created_at),
            "media_type": _taken(MEDIA_TYPES, posts.media),
            "language": _taken(config.languages, posts.language),
            "country": _taken([m.country for m in config.markets], posts.market),
            "topic_id": posts.topic_id,
            "duration_seconds": posts.duration_seconds,
            "integrity_score": posts.integrity_score,
            "is_recommendable": posts.is_recommendable,
            "content_codes": _rows_of(posts.content_codes),
            "content_embedding": embedding,
        },
    )


def follows_table(config: WorldConfig, drawn: Ties, posts: Posts, requests: Requests, seen: Seen) -> pa.Table:
    """Table `follows`: those made outside the feed and ended again, and those made in the feed (ids `ff...`)."""
    user, creator = drawn.keys // drawn.num_creators, drawn.keys % drawn.num_creators
    ended = np.flatnonzero(drawn.until < config.end_seconds)
    rows = np.flatnonzero(seen.acted[:, _FOLLOW])
    number = np.arange(len(drawn.keys))
    # A follow made before the log starts and one made in the feed are the same kind of fact.
    return _table(
        "follows",
        np.concatenate([drawn.since, drawn.until[ended], _acted_at(seen, rows, _FOLLOW)]),
        {
            "event_id": pa.concat_arrays([_text("fo", number), _text("fe", ended), _text("ff", rows)]),
            "user_id": np.concatenate([user, user[ended], requests.user[seen.request[rows]]]),
            "creator_id": np.concatenate([creator, creator[ended], posts.creator[seen.post[rows]]]),
            "is_active": np.r_[np.ones(len(user), bool), np.zeros(len(ended), bool), np.ones(len(rows), bool)],
        },
    )


def requests_table(config: WorldConfig, users: Users, requests: Requests) -> pa.Table:
    """Table `requests`: those of the window."""
    logged = slice(requests.num_burn_in, None)
    user = requests.user[logged]
    return _table(
        "requests",
        requests.served_at[logged],
        {
            "request_id": np.arange(requests.num_burn_in, requests.count) + 1,
            "user_id": user,
            "session_id": requests.session[logged],
            "surface": _constant(SURFACE, len(user)),
            "country": _taken([m.country for m in config.markets], users.market[user]),
            "language": _taken(config.languages, requests.language[logged]),
            "device": _taken(DEVICES, users.profile_codes[user, 0]),
            "spec_version": _constant(POLICY_VERSION, len(user)),
        },
    )


def impressions_table(posts: Posts, requests: Requests, seen: Seen) -> pa.Table:
    """Table `impressions`: every post scrolled to within the window; ids `i...` by order of simulation."""
    rows = np.flatnonzero(seen.request >= requests.num_burn_in)
    count, request, post = len(rows), seen.request[rows], seen.post[rows]
    sources = pa.ListArray.from_arrays(
        pa.array(np.arange(count + 1, dtype=np.int32)), _taken(SOURCES, seen.source[rows])
    )
    return _table(
        "impressions",
        seen.event_at[rows],
        {
            "event_id": _text("i", rows),
            "request_id": request + 1,
            "user_id": requests.user[request],
            "post_id": post,
            "creator_id": posts.creator[post],
            "surface": _constant(SURFACE, count),
            "position": seen.position[rows].astype(np.int32),
            "served_at": _instants(requests.served_at[request]),
            "sources": sources,
            "propensity": seen.propensity[rows].astype(np.float32),
            "spec_version": _constant(POLICY_VERSION, count),
            "model_versions": pa.nulls(count, pa.string()),
            "observed_kinds": pa.nulls(count, pa.list_(pa.string())),
            "is_time_imputed": np.zeros(count, dtype=bool),
        },
    )


def engagements_table(posts: Posts, requests: Requests, seen: Seen) -> pa.Table:
    """Table `engagements`: one row per action within the window; ids `<kind>-i...`."""
    acted = seen.acted & (seen.request >= requests.num_burn_in)[:, None]
    parts = [_engagements_of(head, np.flatnonzero(acted[:, head]), posts, requests, seen) for head in range(len(HEADS))]
    return pa.concat_tables(parts)


def _engagements_of(head: int, rows: NDArray[np.int64], posts: Posts, requests: Requests, seen: Seen) -> pa.Table:
    count, request, post = len(rows), seen.request[rows], seen.post[rows]
    has_dwell = head in (_CLICK, _LONG_VIEW)
    dwell = pa.array(seen.dwell_seconds[rows].astype(np.float32)) if has_dwell else pa.nulls(count, pa.float32())
    return _table(
        "engagements",
        _acted_at(seen, rows, head),
        {
            "event_id": _text(f"{HEADS[head]}-i", rows),
            "impression_id": _text("i", rows),
            "request_id": request + 1,
            "user_id": requests.user[request],
            "post_id": post,
            "creator_id": posts.creator[post],
            "kind": _constant(HEADS[head], count),
            "dwell_seconds": dwell,
            "is_time_imputed": np.zeros(count, dtype=bool),
        },
    )


def _acted_at(seen: Seen, rows: NDArray[np.int64], head: int) -> NDArray[np.float64]:
    """Unix seconds of the action: soon after the post came into view, later for those that end a view."""
    delay = 0.6 + 0.35 * head
    return np.asarray((seen.event_at[rows] + delay + (0.0 if head == _CLICK else seen.dwell_seconds[rows])).round(3))


def _table(name: str, event_at: NDArray[np.float64], columns: Mapping[str, Any]) -> pa.Table:
    """The columns in the schema's order; everything was known when it happened."""
    instants = _instants(event_at)
    filled = {**columns, "event_at": instants, "known_at": instants}
    schema = TABLES[name].arrow
    arrays = [filled[field.name] for field in schema]
    return pa.table([a if isinstance(a, pa.Array) else pa.array(a) for a in arrays], schema=schema)


def _instants(seconds: NDArray[np.float64]) -> pa.Array:
    return pa.array(np.rint(seconds * 1e6).astype(np.int64)).cast(INSTANT)


def _text(prefix: str, numbers: NDArray[np.int64]) -> pa.Array:
    return pc.binary_join_element_wise(prefix, pa.array(numbers).cast(pa.string()), "")


def _taken(values: tuple[str, ...] | list[str], index: NDArray[np.integer[Any]]) -> pa.Array:
    return pa.array(list(values)).take(pa.array(index.astype(np.int64)))


def _constant(value: str, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(value), count)


def _rows_of(codes: NDArray[np.int32]) -> pa.Array:
    """List array with one list per row of [N, L]."""
    offsets = np.arange(len(codes) + 1, dtype=np.int32) * codes.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(codes.ravel()))
