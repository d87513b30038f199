"""A team's own impressions, engagements and follows as rows of the log. Pure: no files, no clock."""

from collections.abc import Collection
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from core.ids import internal_id
from core.schema import ENGAGEMENT_KINDS, INSTANT, TABLES
from events.importers.batch import Batch, TimeFormat
from events.importers.keys import codes_of, joined, kinds_observed, occurrences
from events.importers.own_entities import refuse_impossible_times, refuse_repeats, refuse_unknown, to_internal
from events.importers.rows import complete

DEVICES = ("ios", "android", "web")
DEFAULT_SURFACE = "explore"
SPEC_VERSION = "imported"


def impressions(batch: Batch, times: TimeFormat, now: datetime, users: pa.Table, posts: pa.Table | None) -> pa.Table:
    """One row per impression taken, under the log's column names and `user_text`, `post_text`, `label:<kind>`,
    `dwell_seconds` and the request's context. Users without a row are refused, and so are posts where posts are known.
    """
    rows = _acts(batch, times, now, users, posts)
    surface = _texts(batch, "surface")
    dwell, propensity = _numbers(batch, "dwell_seconds"), _numbers(batch, "propensity")
    batch.refuse(pc.less(dwell, 0), "dwell_seconds: negative")
    batch.refuse(pc.or_(pc.less_equal(propensity, 0), pc.greater(propensity, 1)), "propensity: not within 0 and 1")
    position = batch.integers("position") if batch.has("position") else pa.nulls(len(batch), pa.int64())
    batch.refuse(pc.or_(pc.less(position, 0), pc.greater(position, 10**6)), "position: not within 0 and 1000000")
    served_at = batch.instants("served_at", times) if batch.has("served_at") else pa.nulls(len(batch), INSTANT)
    batch.refuse(pc.greater(served_at, rows["event_at"]), "served_at: after the impression")
    device = pc.utf8_lower(_texts(batch, "device"))
    batch.one_of("device", device, DEVICES)
    labels = {n: batch.flags(n) for n in batch.text.column_names if n.startswith("label:")}
    rows |= {
        "event_id": _event_ids(
            batch, joined("own", rows["user_id"], rows["post_id"], rows["event_at"].cast(pa.int64()))
        ),
        "surface": pc.fill_null(surface, DEFAULT_SURFACE),
        "position": pc.if_else(pc.less_equal(position, 10**6), position, None).cast(pa.int32()),
        "served_at": served_at,
        "propensity": propensity.cast(pa.float32()),
        "spec_version": _texts(batch, "spec_version"),
        "request_id": _positive(to_internal(_texts(batch, "request_id"))),
        "session_id": to_internal(_texts(batch, "session_id")),
        "device": device,
        "country": pc.utf8_upper(_texts(batch, "country")),
        "language": pc.utf8_lower(_texts(batch, "language")),
        "dwell_seconds": dwell,
    }
    _refuse_shared_requests(batch, rows["request_id"], rows["user_id"])
    return pa.table(rows | labels).filter(pa.array(batch.is_kept))


def impression_rows(taken: pa.Table, creator_ids: NDArray[np.int64], kinds: Collection[str]) -> pa.Table:
    """The taken impressions as `impressions`; `kinds` are the engagements that a log of their own records."""
    everywhere = np.ones(taken.num_rows, bool)
    is_observed = {
        kind: everywhere if kind in kinds else taken[f"label:{kind}"].is_valid().to_numpy()
        for kind in ENGAGEMENT_KINDS
        if kind in kinds or f"label:{kind}" in taken.column_names
    }
    columns = {name: taken[name] for name in TABLES["impressions"].arrow.names if name in taken.column_names}
    columns |= {
        "creator_id": pa.array(creator_ids),
        "observed_kinds": kinds_observed(is_observed, taken.num_rows),
        "is_time_imputed": pa.repeat(False, taken.num_rows),
        "known_at": taken["event_at"],
    }
    return complete("impressions", columns, taken.num_rows)


def request_rows(taken: pa.Table) -> pa.Table:
    """One row of `requests` per request id among the taken impressions, from its first impression."""
    rows = taken.filter(pc.is_valid(taken["request_id"])).sort_by([("event_at", "ascending")])
    rows = rows.filter(pa.array(occurrences(rows["request_id"].to_numpy()) == 0))
    at = pc.coalesce(rows["served_at"], rows["event_at"])
    columns = {name: rows[name] for name in ("request_id", "user_id", "surface", "country", "language", "device")}
    columns |= {
        "session_id": pc.coalesce(rows["session_id"], rows["request_id"]),
        "spec_version": pc.fill_null(rows["spec_version"], SPEC_VERSION),
        "event_at": at,
        "known_at": at,
    }
    return complete("requests", columns, rows.num_rows)


def labelled_engagements(taken: pa.Table, creator_ids: NDArray[np.int64]) -> pa.Table:
    """One row of `engagements` per positive label column of an impression, at the impression's instant."""
    taken = taken.append_column("creator_id", pa.array(creator_ids))
    parts = [TABLES["engagements"].arrow.empty_table()]
    for name in taken.column_names:
        if name.startswith("label:"):
            kind = name.removeprefix("label:")
            parts.append(_labelled(taken.filter(pc.fill_null(taken[name], False)), kind))
    return pa.concat_tables(parts)


def engagements(
    batch: Batch, times: TimeFormat, now: datetime, users: pa.Table, posts: pa.Table, shown: pa.Table
) -> pa.Table:
    """The engagement rows as `engagements`, each tied to its impression.

    Without an `impression_id` of their own they take the last impression of that post by that user at or before the
    action; with none at all the action happened outside a feed.
    """
    rows = _acts(batch, times, now, users, posts)
    kind = pc.utf8_lower(batch.texts("kind", is_required=True))
    batch.one_of("kind", kind, ENGAGEMENT_KINDS)
    dwell = _numbers(batch, "dwell_seconds")
    batch.refuse(pc.less(dwell, 0), "dwell_seconds: negative")
    micros = rows["event_at"].cast(pa.int64())
    places = _given_impressions(batch, shown) if batch.has("impression_id") else _last_impressions(batch, rows, shown)
    rows |= _tied(batch, places, micros, shown)
    creator_places = refuse_unknown(batch, "post_id", rows["post_id"], posts["post_id"], "posts")
    rows |= {
        "event_id": _event_ids(batch, joined("own", rows["user_id"], rows["post_id"], micros, kind)),
        "kind": kind,
        "dwell_seconds": dwell.cast(pa.float32()),
        "creator_id": posts["creator_id"].take(pa.array(np.maximum(creator_places, 0))),
        "is_time_imputed": pa.repeat(False, len(batch)),
        "known_at": rows["event_at"],
    }
    return complete("engagements", rows, len(batch)).filter(pa.array(batch.is_kept))


def follows(
    batch: Batch, times: TimeFormat, now: datetime, known_from: datetime, users: pa.Table, creators: pa.Table
) -> pa.Table:
    """The follow rows as `follows`; without an instant they hold since the import's first day."""
    user_id, creator_id = (to_internal(batch.texts(n, is_required=True)) for n in ("user_id", "creator_id"))
    refuse_unknown(batch, "user_id", user_id, users["user_id"], "users")
    refuse_unknown(batch, "creator_id", creator_id, creators["creator_id"], "creators")
    at = batch.instants("event_at", times) if batch.has("event_at") else pa.nulls(len(batch), INSTANT)
    refuse_impossible_times(batch, "event_at", at, now)
    at = pc.fill_null(at, pa.scalar(known_from, INSTANT))
    is_active = batch.flags("is_active") if batch.has("is_active") else pa.repeat(True, len(batch))
    columns = {
        "user_id": user_id,
        "creator_id": creator_id,
        "is_active": pc.fill_null(is_active, True),
        "event_id": _event_ids(batch, joined("own_follow", user_id, creator_id, at.cast(pa.int64()))),
        "event_at": at,
        "known_at": pc.if_else(pc.less(at, pa.scalar(known_from, INSTANT)), pa.scalar(known_from, INSTANT), at),
    }
    return complete("follows", columns, len(batch)).filter(pa.array(batch.is_kept))


def follows_of(engagement_rows: pa.Table) -> pa.Table:
    """The follow engagements as rows of `follows`."""
    rows = engagement_rows.filter(pc.equal(engagement_rows["kind"], "follow"))
    columns = {name: rows[name] for name in ("event_id", "user_id", "creator_id", "event_at", "known_at")}
    return complete("follows", columns | {"is_active": pa.repeat(True, rows.num_rows)}, rows.num_rows)


def _acts(
    batch: Batch, times: TimeFormat, now: datetime, users: pa.Table, posts: pa.Table | None
) -> dict[str, pa.Array]:
    """Who, on what and when: what impressions and engagements share."""
    user_text, post_text = (batch.texts(name, is_required=True) for name in ("user_id", "post_id"))
    user_id, post_id = to_internal(user_text), to_internal(post_text)
    at = batch.instants("event_at", times, is_required=True)
    refuse_impossible_times(batch, "event_at", at, now)
    refuse_unknown(batch, "user_id", user_id, users["user_id"], "users")
    if posts is not None:
        refuse_unknown(batch, "post_id", post_id, posts["post_id"], "posts")
    return {"user_id": user_id, "post_id": post_id, "event_at": at, "user_text": user_text, "post_text": post_text}


def _event_ids(batch: Batch, derived: pa.Array) -> pa.Array:
    """The rows' own ids, else the derived ones; a second row of one id is refused."""
    if batch.has("event_id"):
        given = batch.texts("event_id", is_required=True)
        refuse_repeats(batch, "event_id", given)
        return given
    is_repeat = (occurrences(codes_of(derived)) > 0) & derived.is_valid().to_numpy(False)
    batch.refuse(is_repeat, "the same act at the same instant again, and no event_id to tell them apart")
    return derived


def _tied(batch: Batch, places: NDArray[np.int64], micros: pa.Array, shown: pa.Table) -> dict[str, pa.Array]:
    """Impression and request of each engagement, null where it has none; one older than its impression is refused."""
    if shown.num_rows == 0 or len(batch) == 0:
        return {}
    is_tied, safe = places >= 0, np.maximum(places, 0)
    is_early = pc.fill_null(micros, 0).to_numpy() < _micros(shown["event_at"])[safe]
    batch.refuse(is_early & is_tied, "event_at: engagement before its impression")
    found = {
        "impression_id": shown["event_id"].take(pa.array(safe)),
        "request_id": shown["request_id"].take(pa.array(safe)),
    }
    return {name: pc.if_else(pa.array(is_tied), values, None) for name, values in found.items()}


def _given_impressions(batch: Batch, shown: pa.Table) -> NDArray[np.int64]:
    """Place of each engagement's own impression, -1 where it names none; unknown ones are refused."""
    given = batch.texts("impression_id")
    found = pc.index_in(given, shown["event_id"].combine_chunks())
    places: NDArray[np.int64] = pc.fill_null(found, -1).to_numpy().astype(np.int64)
    batch.refuse((places < 0) & given.is_valid().to_numpy(False), "impression_id: not in impressions")
    return places


def _last_impressions(batch: Batch, rows: dict[str, pa.Array], shown: pa.Table) -> NDArray[np.int64]:
    """Place of the last impression at or before each engagement, of the same user and post, [N]; -1 for none.

    A row whose user saw the post only later is refused.
    """
    num_shown = shown.num_rows
    if num_shown == 0 or len(batch) == 0:
        return np.full(len(batch), -1, np.int64)
    acts = [pc.fill_null(rows[n], -1).to_numpy() for n in ("user_id", "post_id")]
    pairs = np.stack(
        [np.concatenate([shown[n].to_numpy(), a]) for n, a in zip(("user_id", "post_id"), acts, strict=True)]
    )
    pair = _ranks(*pairs)
    micros = np.concatenate([_micros(shown["event_at"]), _micros(rows["event_at"])])
    moment = np.unique(micros, return_inverse=True)[1]
    key = pair * (int(moment.max()) + 1) + moment
    order = np.argsort(key[:num_shown], kind="stable")
    after = np.searchsorted(key[:num_shown], key[num_shown:], side="right", sorter=order)
    last = order[np.maximum(after - 1, 0)]
    is_found = (after > 0) & (pair[last] == pair[num_shown:])
    batch.refuse(~is_found & np.isin(pair[num_shown:], pair[:num_shown]), "event_at: engagement before its impression")
    places: NDArray[np.int64] = np.where(is_found, last, -1)
    return places


def _ranks(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers that are equal exactly where both keys are, [N]."""
    major = np.unique(first, return_inverse=True)[1]
    values, minor = np.unique(second, return_inverse=True)
    ranks: NDArray[np.int64] = np.unique(major * len(values) + minor, return_inverse=True)[1]
    return ranks


def _labelled(rows: pa.Table, kind: str) -> pa.Table:
    columns = {name: rows[name] for name in ("request_id", "user_id", "post_id", "creator_id", "event_at")}
    columns |= {
        "event_id": joined(rows["event_id"], kind),
        "impression_id": rows["event_id"],
        "kind": pa.repeat(kind, rows.num_rows),
        "is_time_imputed": pa.repeat(False, rows.num_rows),
        "known_at": rows["event_at"],
    }
    if kind in ("click", "long_view"):
        columns["dwell_seconds"] = rows["dwell_seconds"].cast(pa.float32())
    return complete("engagements", columns, rows.num_rows)


def _refuse_shared_requests(batch: Batch, request_id: pa.Array, user_id: pa.Array) -> None:
    """Refuses rows whose request is another user's: one request answers one user."""
    requests, users = (pc.fill_null(ids, -1).to_numpy() for ids in (request_id, user_id))
    if len(requests) == 0:
        return
    _, first, inverse = np.unique(requests, return_index=True, return_inverse=True)
    batch.refuse((users != users[first][inverse]) & (requests >= 0), "request_id: belongs to another user")


def _positive(ids: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(ids, 0), internal_id("request 0"), ids)


def _micros(at: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    micros: NDArray[np.int64] = pc.fill_null(at.cast(pa.int64()), 0).to_numpy()
    return micros


def _texts(batch: Batch, column: str) -> pa.Array:
    return batch.texts(column) if batch.has(column) else pa.nulls(len(batch), pa.string())


def _numbers(batch: Batch, column: str) -> pa.Array:
    return batch.numbers(column) if batch.has(column) else pa.nulls(len(batch), pa.float64())
