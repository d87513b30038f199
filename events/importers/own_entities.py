"""A team's own users, creators and posts as rows of the log. Pure: no files, no clock."""

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from core.ids import internal_id, internal_ids
from core.schema import CONTENT_DIM, INSTANT, MEDIA_TYPES
from events.importers.batch import Batch, TimeFormat
from events.importers.keys import codes_of, occurrences, positions_in
from events.importers.rows import complete, int_lists, not_before

EARLIEST = datetime.fromisoformat("2000-01-01T00:00:00+00:00")
MAX_CODE = 2**31 - 1
_PROJECTION_SEED = 20_220_425


def external_ids(batch: Batch, column: str) -> pa.Array:
    """The outside ids of a key column, [N]; rows without one are refused."""
    return batch.texts(column, is_required=True)


def to_internal(texts: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The int64 of each outside id, null where there is none, [N]; each distinct text is mapped once."""
    whole = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    encoded = whole.dictionary_encode()
    return pa.array(internal_ids(encoded.dictionary.to_pylist()), pa.int64()).take(encoded.indices)


def pseudo_creators(post_texts: Sequence[str]) -> list[str]:
    """Outside ids of the creators that stand for posts without one: each post is its own creator's."""
    return [f"creator_of_post_{text}" for text in post_texts]


def users(batch: Batch, times: TimeFormat, now: datetime, known_from: datetime) -> pa.Table:
    """The user rows as `users`, true since registration, known since the import's first day."""
    text = external_ids(batch, "user_id")
    refuse_repeats(batch, "user_id", text)
    at = _instant_or(batch, "registered_at", times, now, known_from)
    columns = {
        "user_id": to_internal(text),
        "external_id": text,
        "country": _upper(batch, "country"),
        "language": _lower(batch, "language"),
        "profile_codes": _codes(batch),
        "event_at": at,
        "known_at": not_before(at, known_from),
    }
    return complete("users", columns, len(batch)).filter(pa.array(batch.is_kept))


def creators(batch: Batch, times: TimeFormat, now: datetime, known_from: datetime) -> pa.Table:
    """The creator rows as `creators`."""
    text = external_ids(batch, "creator_id")
    refuse_repeats(batch, "creator_id", text)
    at = _instant_or(batch, "created_at", times, now, known_from)
    columns = {
        "creator_id": to_internal(text),
        "external_id": text,
        "country": _upper(batch, "country"),
        "language": _lower(batch, "language"),
        "event_at": at,
        "known_at": not_before(at, known_from),
    }
    return complete("creators", columns, len(batch)).filter(pa.array(batch.is_kept))


def posts(
    batch: Batch, times: TimeFormat, now: datetime, known_from: datetime, creator_texts: set[str] | None
) -> tuple[pa.Table, pa.Array]:
    """The post rows as `posts`, and the outside ids of their creators; with known creators others are refused."""
    text = external_ids(batch, "post_id")
    refuse_repeats(batch, "post_id", text)
    creator = _post_creators(batch, text, creator_texts)
    at = _instant_or(batch, "created_at", times, now, known_from)
    media = pc.fill_null(_lower(batch, "media_type"), "image")
    batch.one_of("media_type", media, MEDIA_TYPES)
    duration, integrity = _number(batch, "duration_seconds"), _number(batch, "integrity_score")
    batch.refuse(pc.less(duration, 0), "duration_seconds: negative")
    batch.refuse(pc.or_(pc.less(integrity, 0), pc.greater(integrity, 1)), "integrity_score: not within 0 and 1")
    topic = batch.texts("topic_id") if batch.has("topic_id") else pa.nulls(len(batch), pa.string())
    is_shown = batch.flags("is_recommendable") if batch.has("is_recommendable") else pa.repeat(True, len(batch))
    columns = {
        "post_id": to_internal(text),
        "external_id": text,
        "creator_id": to_internal(creator),
        "created_at": at,
        "media_type": media,
        "language": _lower(batch, "language"),
        "country": _upper(batch, "country"),
        "topic_id": pc.fill_null(to_internal(topic), -1),
        "duration_seconds": duration.cast(pa.float32()),
        "integrity_score": integrity.cast(pa.float32()),
        "is_recommendable": pc.fill_null(is_shown, True),
        "content_codes": _codes(batch),
        "content_embedding": _embeddings(batch),
        "event_at": at,
        "known_at": not_before(at, known_from),
    }
    kept = pa.array(batch.is_kept)
    return complete("posts", columns, len(batch)).filter(kept), creator.filter(kept)


def bare_users(texts: Sequence[str], known_from: datetime) -> pa.Table:
    """Rows of `users` for users of whom only their actions are known."""
    at = pa.repeat(pa.scalar(known_from, INSTANT), len(texts))
    columns = {
        "user_id": pa.array(internal_ids(list(texts)), pa.int64()),
        "external_id": pa.array(texts, pa.string()),
        "profile_codes": int_lists(np.zeros((len(texts), 0), np.int32)),
        "event_at": at,
        "known_at": at,
    }
    return complete("users", columns, len(texts))


def bare_creators(texts: Sequence[str], known_from: datetime) -> pa.Table:
    """Rows of `creators` for creators of whom only their posts are known."""
    at = pa.repeat(pa.scalar(known_from, INSTANT), len(texts))
    columns = {
        "creator_id": pa.array(internal_ids(list(texts)), pa.int64()),
        "external_id": pa.array(texts, pa.string()),
        "event_at": at,
        "known_at": at,
    }
    return complete("creators", columns, len(texts))


def bare_posts(texts: Sequence[str], first_seen_at: pa.Array) -> pa.Table:
    """Rows of `posts` for posts of which only their impressions are known, created when first seen."""
    columns = {
        "post_id": pa.array(internal_ids(list(texts)), pa.int64()),
        "external_id": pa.array(texts, pa.string()),
        "creator_id": pa.array(internal_ids(pseudo_creators(texts)), pa.int64()),
        "created_at": first_seen_at,
        "media_type": pa.repeat("image", len(texts)),
        "topic_id": pa.repeat(pa.scalar(-1, pa.int64()), len(texts)),
        "is_recommendable": pa.repeat(True, len(texts)),
        "content_codes": int_lists(np.zeros((len(texts), 0), np.int32)),
        "event_at": first_seen_at,
        "known_at": first_seen_at,
    }
    return complete("posts", columns, len(texts))


def refuse_repeats(batch: Batch, column: str, texts: pa.Array) -> None:
    """Refuses every row whose id an earlier row has."""
    batch.refuse((occurrences(codes_of(texts)) > 0) & texts.is_valid().to_numpy(False), f"{column}: duplicate id")


def refuse_unknown(batch: Batch, column: str, ids: pa.Array, known: pa.ChunkedArray, table: str) -> NDArray[np.int64]:
    """Where each id lies among the known ones, [N]; rows whose id is not there are refused."""
    places = positions_in(pc.fill_null(ids, -1).to_numpy(), known.to_numpy())
    batch.refuse(places < 0, f"{column}: not in {table}")
    return places


def refuse_impossible_times(batch: Batch, column: str, at: pa.Array, now: datetime) -> None:
    """Refuses instants after `now` and before the year 2000, which tell of a wrong unit."""
    batch.refuse(pc.greater(at, pa.scalar(now, INSTANT)), f"{column}: in the future")
    batch.refuse(pc.less(at, pa.scalar(EARLIEST, INSTANT)), f"{column}: before 2000; is the unit right?")


def _instant_or(batch: Batch, column: str, times: TimeFormat, now: datetime, default: datetime) -> pa.Array:
    """The instants of an optional column, `default` where it tells none, [N]."""
    if not batch.has(column):
        return pa.repeat(pa.scalar(default, INSTANT), len(batch))
    at = batch.instants(column, times)
    refuse_impossible_times(batch, column, at, now)
    return pc.fill_null(at, pa.scalar(default, INSTANT))


def _post_creators(batch: Batch, post_text: pa.Array, known: set[str] | None) -> pa.Array:
    own = pa.array(pseudo_creators(pc.fill_null(post_text, "").to_pylist()), pa.string())
    if not batch.has("creator_id"):
        return own
    given = batch.texts("creator_id")
    if known is not None:
        is_known = pc.is_in(given, pa.array(sorted(known), pa.string()))
        batch.refuse(pc.and_(pc.invert(is_known), pc.is_valid(given)), "creator_id: not in creators")
    return pc.coalesce(given, own)


def _number(batch: Batch, column: str) -> pa.Array:
    return batch.numbers(column) if batch.has(column) else pa.nulls(len(batch), pa.float64())


def _upper(batch: Batch, column: str) -> pa.Array:
    return pc.utf8_upper(batch.texts(column)) if batch.has(column) else pa.nulls(len(batch), pa.string())


def _lower(batch: Batch, column: str) -> pa.Array:
    return pc.utf8_lower(batch.texts(column)) if batch.has(column) else pa.nulls(len(batch), pa.string())


def _codes(batch: Batch) -> pa.Array:
    """The categorical attributes, one stable number per text, -1 for none, [N] of lists."""
    names = [name for name in batch.text.column_names if name.startswith("code:")]
    codes = np.full((len(batch), len(names)), -1, np.int32)
    for place, name in enumerate(names):
        encoded = batch.texts(name).dictionary_encode()
        known = np.array([internal_id(text) % MAX_CODE for text in encoded.dictionary.to_pylist()] + [-1], np.int64)
        codes[:, place] = known[pc.fill_null(encoded.indices, len(known) - 1).to_numpy()]
    return int_lists(codes)


def _embeddings(batch: Batch) -> pa.Array:
    """Unit vectors of CONTENT_DIM, [N] of lists, null where none is given.

    Vectors of another width are projected by one fixed Gaussian matrix, which keeps angles approximately
    (Johnson and Lindenstrauss 1984).
    """
    empty = pa.nulls(len(batch), pa.list_(pa.float32(), CONTENT_DIM))
    if not batch.has("content_embedding"):
        return empty
    vectors = batch.vectors("content_embedding")
    lengths = pc.fill_null(pc.list_value_length(vectors), 0).to_numpy()
    given = np.flatnonzero(lengths)
    if not len(given):
        return empty
    width = int(np.bincount(lengths[given]).argmax())
    batch.refuse((lengths != width) & vectors.is_valid().to_numpy(False), f"content_embedding: not {width} numbers")
    places = np.flatnonzero(lengths == width)
    matrix = vectors.take(pa.array(places)).flatten().to_numpy(False).astype(np.float64).reshape(-1, width)
    if width != CONTENT_DIM:
        matrix = matrix @ np.random.default_rng(_PROJECTION_SEED).standard_normal((width, CONTENT_DIM))
    norms = np.linalg.norm(matrix, axis=1)
    is_usable = np.isfinite(norms) & (norms > 0)
    batch.refuse(np.isin(np.arange(len(batch)), places[~is_usable]), "content_embedding: zero or not finite")
    unit = np.zeros((len(batch), CONTENT_DIM), np.float32)
    unit[places[is_usable]] = matrix[is_usable] / norms[is_usable, None]
    is_null = ~np.isin(np.arange(len(batch)), places[is_usable])
    return pa.FixedSizeListArray.from_arrays(pa.array(unit.ravel()), CONTENT_DIM, mask=pa.array(is_null))
