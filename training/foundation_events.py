"""Everything that users saw and did as one sequence per user, in the order in which the platform learned of it.

An event is one impression, or a later engagement with it, as known at the end of the hour in which it had arrived
(`feature_repo/sql/functions.sql`, visible hour): the events visible by an hour are the first ones of each user's
sequence, whatever comes later. Imputed instants keep their order and count as any other.
Legend: U users, E events, P posts.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from core.errors import InputError
from core.files import content_hash
from core.schema import ENGAGEMENT_KINDS, HEADS
from core.settings import Settings
from core.workspace import Workspace
from feature_repo.columns import Columns, columns_from_arrow
from models.foundation import EVENT_FLAGS

HOUR = 3_600
SEEN = 1
PUBLISHED_AFTER = 300
"""Seconds from the end of an hour until what happened in it may be used, as for built features."""

_VISIBLE = (
    "greatest(epoch_us({0}event_at) // 3600000000 + 1, (epoch_us({0}known_at) + 3599999999) // 3600000000, "
    "p.from_hour)::INTEGER"
)


@dataclass(frozen=True)
class Catalogue:
    """Posts as they were first described, by id."""

    ids: NDArray[np.int64]
    from_hour: NDArray[np.int64]
    """Hour at whose end each was known, [P]."""
    columns: Columns
    """`post_profile__*`, [P] or [P, L]."""


@dataclass(frozen=True)
class UserEvents:
    """Events of user u are rows `first[u]` to `first[u + 1]` of the [E] arrays, by visible hour, then instant."""

    user_ids: NDArray[np.int64]
    from_hour: NDArray[np.int64]
    """Hour at whose end each user was known, by profile or event, [U]."""
    columns: Columns
    """`user_profile__*` as first declared, null where that was after the first event, [U]."""
    first: NDArray[np.int64]
    hour: NDArray[np.int64]
    at: NDArray[np.float64]
    served_at: NDArray[np.float64]
    post: NDArray[np.int64]
    """Row of the catalogue."""
    flags: NDArray[np.int64]
    """Bits by EVENT_FLAGS."""
    observed: NDArray[np.int64]
    """Bits that the log would have shown, by EVENT_FLAGS."""
    impression: NDArray[np.int64]
    """Number shared by events of one impression."""

    @property
    def num_events(self) -> int:
        return len(self.hour)

    def user_of(self) -> NDArray[np.int64]:
        """User row of each event, [E]."""
        return np.repeat(np.arange(len(self.user_ids)), np.diff(self.first))

    def count_visible(self, users: NDArray[np.int64], hours: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many events of each user row were visible by each hour, [N]."""
        keys = self.user_of() * _SPAN + self.hour
        return np.searchsorted(keys, users * _SPAN + hours, side="right") - self.first[users]

    def until(self, hour: int) -> "UserEvents":
        """What was visible by the end of `hour`; every user stays."""
        keep = self.hour <= hour
        return replace(
            self,
            first=np.concatenate([[0], np.cumsum(keep)])[self.first],
            **{name: getattr(self, name)[keep] for name in _PER_EVENT},
        )

    def digest(self, catalogue: Catalogue) -> str:
        """Hash of who saw and did what and when."""
        counts = np.diff(self.first)
        is_active = counts > 0
        parts = (self.user_ids[is_active], counts[is_active], self.hour, self.at, catalogue.ids[self.post], self.flags)
        return content_hash([np.ascontiguousarray(part).tobytes() for part in parts], 16)


_SPAN = 1 << 32
_PER_EVENT = ("hour", "at", "served_at", "post", "flags", "observed", "impression")


def published_hour(at: NDArray[np.float64]) -> NDArray[np.int64]:
    """The last hour whose events could be used at each instant, [N]."""
    return np.floor((at - PUBLISHED_AFTER) / HOUR).astype(np.int64)


def reactions(events: UserEvents) -> NDArray[np.float32]:
    """Labels [E, H] of seen posts: what followed within `events`; NaN where the log would not show it, or not seen."""
    flags = np.zeros(int(events.impression.max(initial=-1)) + 1, dtype=np.int64)
    np.bitwise_or.at(flags, events.impression, events.flags)
    bits = np.array([1 << EVENT_FLAGS.index(head) for head in HEADS])
    labels = (flags[events.impression][:, None] & bits > 0).astype(np.float32)
    is_shown = (events.observed[:, None] & bits > 0) & (events.flags[:, None] & SEEN > 0)
    labels[~is_shown] = np.nan
    return labels


def read_events(settings: Settings, workspace: Workspace) -> tuple[UserEvents, Catalogue]:
    """The whole log of `workspace`. Raises InputError for one without events."""
    from events.read import connect, register_log

    connection = connect(settings)
    try:
        register_log(connection, workspace.log)
        catalogue = _catalogue(connection)
        users = connection.sql(_first_version("users", "user_id", "country, language, profile_codes")).to_arrow_table()
        rows = connection.sql(_EVENTS_SQL).to_arrow_table()
    finally:
        connection.close()
    if rows.num_rows == 0:
        raise InputError(f"no impressions or engagements in {workspace.log}; import or generate data first")
    return _user_events(rows, users, catalogue.ids), catalogue


def _first_version(table: str, key: str, columns: str) -> str:
    """SQL of each entity as it was first described, and the hour at whose end it was known."""
    return (
        f"SELECT {key}, {columns}, (epoch_us(greatest(event_at, known_at)) + 3599999999) // 3600000000 AS from_hour "
        f"FROM {table} QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY event_at, known_at) = 1 ORDER BY {key}"
    )


def _catalogue(connection: duckdb.DuckDBPyConnection) -> Catalogue:
    names = (
        "creator_id, topic_id, language, country, media_type, duration_seconds, integrity_score, content_codes, "
        "content_embedding"
    )
    rows = connection.sql(_first_version("posts", "post_id", names)).to_arrow_table()
    connection.register("first_posts", rows.select(["post_id", "from_hour"]))
    named = {f"post_profile__{name}": rows[name] for name in names.split(", ")}
    columns = columns_from_arrow(pa.table(named | {"post_profile__post_key": rows["post_id"]}))
    return Catalogue(rows["post_id"].to_numpy(), rows["from_hour"].to_numpy(), columns)


def _bits(column: str) -> str:
    return " + ".join(f"({column})::INTEGER * {1 << EVENT_FLAGS.index(k)}".format(k) for k in ENGAGEMENT_KINDS)


_ALL_KINDS = sum(1 << EVENT_FLAGS.index(kind) for kind in ENGAGEMENT_KINDS)
_EVENTS_SQL = f"""
WITH seen AS (
    SELECT i.user_id, i.post_id, i.event_id AS impression, {_VISIBLE.format("i.")} AS hour,
           epoch(i.event_at) AS acted_at, epoch(coalesce(served_at, event_at)) AS served_at, {SEEN} AS flags,
           CASE WHEN observed_kinds IS NULL THEN {_ALL_KINDS} ELSE {_bits("list_contains(observed_kinds, '{}')")} END
           AS observed
    FROM impressions i JOIN first_posts p USING (post_id)
), acted AS (
    SELECT e.user_id, e.post_id, coalesce(impression_id, e.event_id) AS impression, {_VISIBLE.format("e.")} AS hour,
           min(epoch(e.event_at)) AS acted_at,
           bit_or(CASE kind {" ".join(f"WHEN '{k}' THEN {1 << EVENT_FLAGS.index(k)}" for k in ENGAGEMENT_KINDS)} END)
           AS flags
    FROM engagements e JOIN first_posts p USING (post_id) GROUP BY ALL
)
SELECT user_id, post_id, impression, hour, coalesce(s.acted_at, a.acted_at) AS acted_at,
       coalesce(s.served_at, a.acted_at) AS served_at,
       coalesce(s.flags, 0) | coalesce(a.flags, 0) AS flags, coalesce(observed, 0) AS observed
FROM seen s FULL JOIN acted a USING (user_id, post_id, impression, hour)
ORDER BY user_id, hour, acted_at, impression
"""


def _user_events(rows: pa.Table, users: pa.Table, post_ids: NDArray[np.int64]) -> UserEvents:
    column: Callable[[str], NDArray[Any]] = lambda name: rows[name].to_numpy()  # noqa: E731
    declared = users["user_id"].to_numpy()
    user_ids = np.union1d(declared, column("user_id"))
    first = np.append(np.searchsorted(column("user_id"), user_ids), rows.num_rows)
    hour = column("hour").astype(np.int64)
    first_hour = np.where(np.diff(first) > 0, hour[np.minimum(first[:-1], len(hour) - 1)], np.iinfo(np.int64).max)
    place = np.minimum(np.searchsorted(declared, user_ids), max(len(declared) - 1, 0))
    is_declared = declared[place] == user_ids if len(declared) else np.zeros(len(user_ids), dtype=bool)
    from_hour = np.where(is_declared, users["from_hour"].to_numpy()[place] if len(declared) else 0, first_hour)
    # What was declared only after the first event would tell the past of it.
    is_usable = is_declared & (from_hour <= first_hour)
    taken = users.take(pa.array(place, mask=~is_usable)) if len(declared) else users
    names = ("country", "language", "profile_codes")
    impression = rows["impression"].combine_chunks().dictionary_encode().indices.to_numpy()
    return UserEvents(
        user_ids,
        np.minimum(from_hour, first_hour),
        columns_from_arrow(pa.table({f"user_profile__{name}": taken[name] for name in names})),
        first,
        hour,
        column("acted_at"),
        column("served_at"),
        np.searchsorted(post_ids, column("post_id")),
        column("flags").astype(np.int64),
        column("observed").astype(np.int64),
        impression.astype(np.int64),
    )
