"""Every page as it was served: joins events to what was shown and keeps cursors free of repeats.

A SQLite file beside the journal. It is not part of the promise of durability that /events gives: a page lost
in a power cut costs the join of its events, nothing else, so writes do not wait for the disk.
"""

import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from events.sqlite_erase import erase, overwrite_deleted
from events.sqlite_errors import mapped_errors

KEEP_DAYS = 15
"""Longer than any engagement is attributed to its impression."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS pages (
    request_id INTEGER PRIMARY KEY,
    visit_id INTEGER NOT NULL,
    user_id INTEGER NOT NULL,
    surface TEXT NOT NULL,
    country TEXT, language TEXT, device TEXT,
    requested_at INTEGER NOT NULL,
    ranked_at BLOB NOT NULL,
    spec_version TEXT NOT NULL,
    model_versions TEXT NOT NULL,
    degraded TEXT NOT NULL,
    positions BLOB NOT NULL,
    post_ids BLOB NOT NULL,
    propensities BLOB NOT NULL,
    sources TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS pages_by_visit ON pages (visit_id);
CREATE INDEX IF NOT EXISTS pages_by_time ON pages (requested_at);
CREATE INDEX IF NOT EXISTS pages_by_user ON pages (user_id);
"""
_COLUMNS = (
    "request_id", "visit_id", "user_id", "surface", "country", "language", "device", "requested_at",
    "spec_version", "model_versions", "degraded", "positions", "post_ids", "propensities", "ranked_at", "sources",
)  # fmt: skip
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class ServedPage:
    """One reply of /feed. Lists align with `post_ids`."""

    request_id: int
    visit_id: int
    user_id: int
    surface: str
    country: str | None
    language: str | None
    device: str | None
    requested_at: datetime
    spec_version: str
    model_versions: str
    degraded: tuple[str, ...]
    positions: tuple[int, ...]
    post_ids: tuple[int, ...]
    propensities: tuple[float, ...]
    ranked_at: tuple[datetime, ...]
    """Serve time of the ranking; earlier than the request where the post came from a kept slate."""
    sources: tuple[tuple[str, ...], ...]


class ServedLog:
    """One open file of served pages; threads may share it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._lock = threading.Lock()
        self.is_failing = False
        """Whether the last `append` could not keep its page."""
        with mapped_errors("served log", self._path):
            self._connection = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            overwrite_deleted(self._connection)
            self._connection.executescript(_SCHEMA)
            if "explanations" in {row[1] for row in self._connection.execute("PRAGMA table_info(pages)")}:
                # A file of before explanations had a store of their own.
                self._connection.execute("ALTER TABLE pages DROP COLUMN explanations")

    def append(self, page: ServedPage) -> None:
        """Keeps the page. Raises StoreUnavailableError."""
        cells = (
            page.request_id, page.visit_id, page.user_id, page.surface, page.country, page.language, page.device,
            _micros(page.requested_at), page.spec_version, page.model_versions,
            _text(page.degraded), np.array(page.positions, dtype="<i8").tobytes(),
            np.array(page.post_ids, dtype="<i8").tobytes(), np.array(page.propensities, dtype="<f8").tobytes(),
            np.array([_micros(at) for at in page.ranked_at], dtype="<i8").tobytes(),
            _text(page.sources),
        )  # fmt: skip
        query = f"INSERT OR REPLACE INTO pages ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
        with self._lock, mapped_errors("served log", self._path):
            try:
                self._connection.execute(query, cells)
            except BaseException:
                self.is_failing = True
                raise
            self.is_failing = False

    def page(self, request_id: int) -> ServedPage | None:
        """The page of a request, None when it was never served or is too old."""
        rows = self._read(f"SELECT {', '.join(_COLUMNS)} FROM pages WHERE request_id = ?", request_id)
        return _from_row(rows[0]) if rows else None

    def posts_of_visit(self, visit_id: int, user_id: int) -> tuple[int, ...]:
        """Ids of all posts that the pages of a visit showed, in order."""
        rows = self._read(
            "SELECT post_ids FROM pages WHERE visit_id = ? AND user_id = ? ORDER BY rowid", visit_id, user_id
        )
        return tuple(i for (raw,) in rows for i in np.frombuffer(raw, dtype="<i8").tolist())

    def pages_after(self, place: tuple[datetime, int], limit: int) -> list[ServedPage]:
        """At most `limit` pages after `place`, the instant and id of a request, oldest first."""
        rows = self._read(
            f"SELECT {', '.join(_COLUMNS)} FROM pages WHERE (requested_at, request_id) > (?, ?) "
            "ORDER BY requested_at, request_id LIMIT ?",
            _micros(place[0]), place[1], limit,
        )  # fmt: skip
        return [_from_row(row) for row in rows]

    def prune(self, now: datetime) -> int:
        """Number of pages dropped because they are older than KEEP_DAYS."""
        with self._lock, mapped_errors("served log", self._path):
            before = _micros(now - timedelta(days=KEEP_DAYS))
            return self._connection.execute("DELETE FROM pages WHERE requested_at < ?", (before,)).rowcount

    def forget(self, user_ids: Sequence[int], until: datetime) -> None:
        """Erases the pages that these users asked for until then, from the file too. Raises StoreUnavailableError."""
        with self._lock, mapped_errors("served log", self._path):
            query = "DELETE FROM pages WHERE user_id = ? AND requested_at <= ?"
            erase(self._connection, query, [(user_id, _micros(until)) for user_id in user_ids])

    def close(self) -> None:
        """Ends the connection; who is still reading or writing ends first."""
        with self._lock:
            self._connection.close()

    def _read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock, mapped_errors("served log", self._path):
            return self._connection.execute(query, values).fetchall()


def _from_row(row: tuple[Any, ...]) -> ServedPage:
    cells: dict[str, Any] = dict(zip(_COLUMNS, row, strict=True))
    cells["requested_at"] = _instant(cells["requested_at"])
    for name, dtype in (("positions", "<i8"), ("post_ids", "<i8"), ("propensities", "<f8"), ("ranked_at", "<i8")):
        cells[name] = tuple(np.frombuffer(cells[name], dtype=dtype).tolist())
    cells["ranked_at"] = tuple(_instant(micros) for micros in cells["ranked_at"])
    cells["degraded"] = tuple(orjson.loads(cells["degraded"]))
    cells["sources"] = tuple(tuple(s) for s in orjson.loads(cells["sources"]))
    return ServedPage(**cells)


def _text(value: object) -> str:
    return orjson.dumps(value).decode()


def _instant(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)


def _micros(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)
