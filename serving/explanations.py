"""Why each post was served, by request id: kept on disk for days, within a bound, and written behind the reply.

A SQLite file whose rows are compressed JSON. What was not yet written when a process was killed is lost, and with it
only an explanation; what a page served is in the served log before the reply.
"""

import sqlite3
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from threading import Condition, Lock, Thread
from typing import Any

import orjson

from core.errors import StoreUnavailableError
from core.logs import logger
from events.sqlite_erase import erase, overwrite_deleted
from events.sqlite_errors import mapped_errors
from serving.spec_operation import ExplanationsSpec

_MAX_WAITING = 1_000
_BATCH, _BATCH_SECONDS = 100, 0.2
"""Pages written together: as many as wait, after so long."""
_TRIM_EVERY = 500
"""Rows between two looks at age and size."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS explanations (
    request_id INTEGER PRIMARY KEY,
    user_id INTEGER NOT NULL,
    requested_at REAL NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS explanations_by_time ON explanations (requested_at);
CREATE INDEX IF NOT EXISTS explanations_by_user ON explanations (user_id);
"""

Explained = dict[str, Any]
"""What the reply of /explain holds; plain JSON values with `request_id`, `user_id` and `requested_at` among them."""


class Explanations:
    """One open file and its writer. Threads may share it."""

    def __init__(self, path: Path, limits: ExplanationsSpec, dropped: Callable[[], None] = lambda: None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._limits = limits
        self._dropped = dropped
        self._waiting: OrderedDict[int, Callable[[], Explained]] = OrderedDict()
        self._change = Condition()
        self._file = Lock()
        self._is_closing = self._is_hurried = False
        self._num_written = 0
        with mapped_errors("explanations", path):
            self._connection = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            overwrite_deleted(self._connection)
            self._connection.executescript(_SCHEMA)
        self._thread = Thread(target=self._write_on, name="explanations", daemon=True)
        self._thread.start()

    def keep(self, request_id: int, explain: Callable[[], Explained]) -> None:
        """Writes what `explain` gives, soon. Beyond the queue it is dropped and counted: pages come first."""
        with self._change:
            if len(self._waiting) >= _MAX_WAITING or self._is_closing:
                self._dropped()
                return
            self._waiting[request_id] = explain
            if len(self._waiting) in (1, _BATCH):
                self._change.notify_all()

    def find(self, request_id: int) -> Explained | None:
        """The explanation, None where it was never kept or has left. Raises StoreUnavailableError."""
        with self._change:
            waiting = self._waiting.get(request_id)
        if waiting is not None:
            found: Explained = orjson.loads(_json(waiting()))
            return found
        with self._file, mapped_errors("explanations", self._path):
            row = self._connection.execute(
                "SELECT body FROM explanations WHERE request_id = ?", (request_id,)
            ).fetchone()
        return orjson.loads(zlib.decompress(row[0])) if row else None

    def trim(self, now_seconds: float) -> None:
        """Drops what is too old, then the oldest tenth as often as the file holds more than its limit."""
        oldest = now_seconds - self._limits.max_age_hours * 3600
        limit = self._limits.max_megabytes * 1_000_000
        with self._file, mapped_errors("explanations", self._path):
            self._connection.execute("DELETE FROM explanations WHERE requested_at < ?", (oldest,))
            while self._used_bytes() > limit:
                (count,) = self._connection.execute("SELECT count(*) FROM explanations").fetchone()
                if count == 0:
                    return
                self._connection.execute(
                    "DELETE FROM explanations WHERE request_id IN "
                    "(SELECT request_id FROM explanations ORDER BY requested_at LIMIT ?)", (-(-count // 10),),
                )  # fmt: skip

    def forget(self, user_ids: Sequence[int], until: datetime) -> None:
        """Erases why these users were served what they asked for until then. Raises StoreUnavailableError."""
        with self._change:
            waiting = set(self._waiting)
            self._change.wait_for(lambda: not waiting & self._waiting.keys(), timeout=10)
        with self._file, mapped_errors("explanations", self._path):
            query = "DELETE FROM explanations WHERE user_id = ? AND requested_at <= ?"
            erase(self._connection, query, [(user_id, until.timestamp()) for user_id in user_ids])

    def flush(self) -> None:
        """Returns when everything kept so far is written or lost."""
        with self._change:
            self._is_hurried = True
            self._change.notify_all()
            self._change.wait_for(lambda: not self._waiting, timeout=10)
            self._is_hurried = False

    def close(self) -> None:
        """Writes what waits and ends."""
        with self._change:
            self._is_closing = True
            self._change.notify_all()
        self._thread.join(10)
        self._connection.close()

    def _used_bytes(self) -> int:
        """Bytes of pages that hold rows; a deleted row's page is used again."""
        pages, free, size = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def _write_on(self) -> None:
        # A step of its own each: a page that is written must not be held, and with it its catalogue, by this thread.
        while self._write_next():
            pass

    def _write_next(self) -> bool:
        """Whether there is more to come."""
        with self._change:
            self._change.wait_for(lambda: self._waiting or self._is_closing)
            # A transaction costs as much as many rows.
            self._change.wait_for(
                lambda: len(self._waiting) >= _BATCH or self._is_hurried or self._is_closing, _BATCH_SECONDS
            )
            if not self._waiting:
                return False
            batch = list(self._waiting.items())
        try:
            self._write(batch)
        except Exception as error:  # the writer must outlive a full disk and whatever one page holds
            logger("serving").warning("explanations not kept", count=len(batch), reason=type(error).__name__)
            for _ in batch:
                self._dropped()
        with self._change:
            for request_id, _ in batch:
                self._waiting.pop(request_id, None)
            self._change.notify_all()
        return True

    def _write(self, batch: list[tuple[int, Callable[[], Explained]]]) -> None:
        rows, newest = [], 0.0
        for request_id, explain in batch:
            explained = explain()
            at = datetime.fromisoformat(explained["requested_at"]).timestamp()
            newest = max(newest, at)
            rows.append((request_id, explained["user_id"], at, zlib.compress(_json(explained), 1)))
        with self._file, mapped_errors("explanations", self._path):
            self._connection.execute("BEGIN")
            try:
                self._connection.executemany("INSERT OR REPLACE INTO explanations VALUES (?, ?, ?, ?)", rows)
            except sqlite3.Error:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
        before, self._num_written = self._num_written, self._num_written + len(rows)
        if before // _TRIM_EVERY != self._num_written // _TRIM_EVERY:
            self.trim(newest)


def _json(explained: Explained) -> bytes:
    try:
        return orjson.dumps(explained, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as error:
        raise StoreUnavailableError(f"an explanation is not JSON: {error}") from error
