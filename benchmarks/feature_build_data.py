"""A log of any size for the feature build: like the simulated world in shape, drawn with numpy, late events too."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from core.schema import CONTENT_DIM, HEADS, MEDIA_TYPES, TABLES
from core.workspace import DatasetManifest, Workspace

START = datetime(2026, 3, 1, tzinfo=UTC)
_START_US = int(START.timestamp()) * 1_000_000
_HOUR_US = 3_600_000_000
_RATES = (0.10, 0.03, 0.008, 0.008, 0.01, 0.004, 0.08, 0.002, 0.0005)
"""Engagements per impression, in the order of core.schema.HEADS."""

_VISIT = 12
"""Impressions of one user in an hour."""

_LATE_SHARE = 0.01
_LATEST_HOURS = 48
_LIFE_HOURS = 36.0
_HOURS_BEFORE = 16 * 24
"""The first posts are older than the log by this."""

Ints = NDArray[np.int64]
Tables = dict[str, pa.Table]


@dataclass(frozen=True)
class Scale:
    """Size of a log: days, and rows over them."""

    num_days: int
    num_impressions: int
    num_users: int
    num_posts: int
    num_creators: int

    @property
    def per_hour(self) -> int:
        return self.num_impressions // (24 * self.num_days)


FULL = Scale(30, 10_000_000, 100_000, 300_000, 15_000)
QUICK = Scale(10, 1_000_000, 15_000, 45_000, 3_000)


@dataclass
class GrowingLog:
    """Writes the days of a log, then further hours one by one. Draws in the order of time from `seed`."""

    workspace: Workspace
    scale: Scale
    seed: int = 7

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)
        self._hour = 0
        self._waiting: dict[str, list[pa.Table]] = {}
        scale = self.scale
        self._activity = np.cumsum(self._rng.lognormal(0, 0.8, scale.num_users))
        self._quality = self._rng.lognormal(0, 1.2, 2 * scale.num_posts)
        self._creator_of = np.minimum(
            self._rng.zipf(1.3, 2 * scale.num_posts) * 37 % scale.num_creators, scale.num_creators - 1
        )
        self._posts_per_hour = scale.num_posts / (24 * scale.num_days + _HOURS_BEFORE)

    def write_days(self) -> None:
        """Everything up to the end of the last day."""
        self._write(self._entities(), "start")
        for day in range(self.scale.num_days):
            drawn = [self._draw() for _ in range(24)]
            self._write(self._arrived(_joined(drawn)), f"day-{day:02d}")
        self._write_manifest()

    def write_hour(self) -> None:
        """One more hour, with what arrives late in it."""
        self._write(self._arrived(self._draw()), f"hour-{self._hour:04d}")
        self._write_manifest()

    @property
    def end(self) -> datetime:
        return START + timedelta(hours=self._hour)

    def _num_published(self, hour: float) -> int:
        return int((hour + _HOURS_BEFORE) * self._posts_per_hour)

    def _draw(self) -> Tables:
        """The events and posts of the next hour, by event time."""
        count, rng = self.scale.per_hour, self._rng
        at = _START_US + self._hour * _HOUR_US + np.sort(rng.integers(0, _HOUR_US, count))
        visits = np.searchsorted(self._activity, rng.random(-(-count // _VISIT)) * self._activity[-1])
        users = rng.permutation(np.repeat(visits, _VISIT)[:count])
        num_published = self._num_published(self._hour)
        age_hours = (num_published - np.arange(num_published)) / self._posts_per_hour
        weights = np.cumsum(self._quality[:num_published] * (np.exp(-age_hours / _LIFE_HOURS) + 0.003))
        posts = np.searchsorted(weights, rng.random(count) * weights[-1])
        numbers = np.arange(count) + self._hour * count
        shown = self._events("i", numbers, at, users, posts)
        tables = {"impressions": _conform("impressions", shown)}
        acted = rng.random((count, len(HEADS))) < np.array(_RATES)
        rows, kinds = np.nonzero(acted)
        later = np.minimum(
            at[rows] + rng.integers(0, 60_000_000, len(rows)), _START_US + (self._hour + 1) * _HOUR_US - 1
        )
        done = self._events("e", numbers[rows] * len(HEADS) + kinds, later, users[rows], posts[rows])
        done["impression_id"] = shown["event_id"].take(pa.array(rows))
        done["kind"] = pa.array(np.array(HEADS)[kinds])
        tables["engagements"] = _conform("engagements", done)
        tables["follows"] = self._follows(max(1, count // 200), at, "f")
        self._hour += 1
        fresh = np.arange(num_published, self._num_published(self._hour))
        tables["posts"] = self._posts(fresh)
        return tables

    def _events(self, prefix: str, numbers: Ints, at: Ints, users: Ints, posts: Ints) -> dict[str, pa.Array]:
        is_late = self._rng.random(len(at)) < _LATE_SHARE
        delay = np.where(is_late, self._rng.integers(0, _LATEST_HOURS * _HOUR_US, len(at)), 0)
        return {
            "event_id": pc.binary_join_element_wise(prefix, pa.array(numbers).cast(pa.string()), ""),
            "request_id": pa.array(numbers + 1),
            "user_id": pa.array(users),
            "post_id": pa.array(posts),
            "creator_id": pa.array(self._creator_of[posts]),
            "surface": pa.array(np.full(len(at), "explore")),
            "is_time_imputed": pa.array(np.zeros(len(at), bool)),
            "event_at": _instants(at),
            "known_at": _instants(at + delay),
        }

    def _follows(self, count: int, at: Ints, prefix: str) -> pa.Table:
        rng = self._rng
        when = np.sort(rng.choice(at, count))
        columns = {
            "event_id": pa.array([f"{prefix}{self._hour}-{n}" for n in range(count)]),
            "user_id": pa.array(rng.integers(0, self.scale.num_users, count)),
            "creator_id": pa.array(rng.integers(0, self.scale.num_creators, count)),
            "is_active": pa.array(rng.random(count) < 0.9),
            "event_at": _instants(when),
            "known_at": _instants(when),
        }
        return _conform("follows", columns)

    def _posts(self, ids: Ints) -> pa.Table:
        rng, count = self._rng, len(ids)
        at = _START_US + ((ids + 1) / self._posts_per_hour * _HOUR_US).astype(np.int64) - _HOURS_BEFORE * _HOUR_US - 1
        vectors = rng.normal(size=(count, CONTENT_DIM)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        flat = pa.array(vectors.ravel())
        columns = {
            "post_id": pa.array(ids),
            "external_id": pa.array(ids).cast(pa.string()),
            "creator_id": pa.array(self._creator_of[ids]),
            "created_at": _instants(at),
            "media_type": pa.array(np.array(MEDIA_TYPES)[rng.integers(0, len(MEDIA_TYPES), count)]),
            "topic_id": pa.array(rng.integers(-1, 72, count)),
            "is_recommendable": pa.array(np.ones(count, bool)),
            "content_codes": pa.array([[]] * count, pa.list_(pa.int32())),
            "content_embedding": pa.FixedSizeListArray.from_arrays(flat, CONTENT_DIM),
            "event_at": _instants(at),
            "known_at": _instants(at),
        }
        return _conform("posts", columns)

    def _entities(self) -> Tables:
        before = np.full(self.scale.num_users, _START_US - _HOURS_BEFORE * _HOUR_US)
        tables = {"posts": self._posts(np.arange(self._num_published(0)))}
        for table, key, count in (
            ("users", "user_id", self.scale.num_users),
            ("creators", "creator_id", self.scale.num_creators),
        ):
            columns = {
                key: pa.array(np.arange(count)),
                "external_id": pa.array(np.arange(count)).cast(pa.string()),
                "profile_codes": pa.array([[]] * count, pa.list_(pa.int32())),
                "event_at": _instants(before[:count]),
                "known_at": _instants(before[:count]),
            }
            tables[table] = _conform(table, columns)
        tables["follows"] = self._follows(15 * self.scale.num_users, before + _HOUR_US, "s")
        return tables

    def _arrived(self, drawn: Tables) -> Tables:
        """What of the drawn and of the waiting rows is known by now; the rest waits."""
        now = pa.scalar(_START_US + self._hour * _HOUR_US).cast(pa.timestamp("us", tz="UTC"))
        arrived = {}
        for name, table in drawn.items():
            table = pa.concat_tables([*self._waiting.get(name, []), table])
            is_known = pc.less_equal(table["known_at"], now)
            arrived[name] = table.filter(is_known)
            self._waiting[name] = [table.filter(pc.invert(is_known))]
        return arrived

    def _write(self, tables: Tables, name: str) -> None:
        for table, rows in tables.items():
            for day, part in _by_day(rows):
                folder = self.workspace.log / table / f"day={day}"
                folder.mkdir(parents=True, exist_ok=True)
                pq.write_table(part, folder / f"{name}.parquet", compression="zstd", row_group_size=262_144)

    def _write_manifest(self) -> None:
        fields = {"num_impressions": self.scale.num_impressions}
        self.workspace.write_manifest(
            DatasetManifest(self.workspace.root.name, "world", "bench", self.end, START, self.end, {}, dict(fields))
        )


def _joined(drawn: list[Tables]) -> Tables:
    return {name: pa.concat_tables([tables[name] for tables in drawn]) for name in drawn[0]}


def _by_day(rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    rows = rows.sort_by("event_at")
    days = rows["event_at"].cast(pa.int64()).to_numpy() // (24 * _HOUR_US)
    for day in np.unique(days):
        first, last = np.searchsorted(days, [day, day + 1])
        yield datetime.fromtimestamp(int(day) * 86_400, UTC).strftime("%Y-%m-%d"), rows.slice(first, last - first)


def _instants(micros: Ints) -> pa.Array:
    return pa.array(micros).cast(pa.timestamp("us", tz="UTC"))


def _conform(table: str, columns: dict[str, pa.Array]) -> pa.Table:
    schema = TABLES[table].arrow
    count = len(columns["event_at"])
    arrays = [columns[f.name].cast(f.type) if f.name in columns else pa.nulls(count, f.type) for f in schema]
    return pa.table(arrays, schema=schema)


def write_log(folder: Path, scale: Scale) -> GrowingLog:
    """A new log of the whole days of `scale`."""
    log = GrowingLog(Workspace(folder), scale)
    log.write_days()
    return log
