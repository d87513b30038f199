"""Keeps what the second stage was fed, off the request path.

A request only appends to a list in memory; a thread writes the list to `served_features/` every few seconds. When the
list is full, records are dropped and counted. Nothing here can slow down or fail a feed.
"""

import json
from collections.abc import Callable, Collection
from hashlib import blake2b
from pathlib import Path
from threading import Event, Lock, Thread

from core.errors import VitrineError
from core.logs import logger
from core.settings import Settings
from core.workspace import Workspace
from feature_repo.materialized import materialized_until, registry_path
from serving.feature_log_files import Kept, prune_feature_log, write_feature_log
from serving.funnel.feature_record import FeatureRecord

MAX_POSTS = 20_000
"""Ranked posts held in memory at most, about 2 kB each."""

FLUSH_SECONDS = 5.0
CLOSE_SECONDS = 10.0
"""Longest wait for the last write at shutdown."""

Count = Callable[[str, int], None]
"""Told (kept, dropped or failed; ranked posts)."""


class FeatureLog:
    """A sampling, bounded buffer in front of Parquet files. Threads may share it; its thread starts with the first
    record."""

    def __init__(
        self,
        folder: Path,
        share: float,
        count: Count,
        materialized: Callable[[], str] = lambda: "{}",
        max_posts: int = MAX_POSTS,
    ) -> None:
        self._folder = folder
        self._limit = round(share * 2**64)
        self._count = count
        self._materialized = materialized
        self._max_posts = max_posts
        self._lock = Lock()
        self._waiting: list[Kept] = []
        self._num_waiting = 0
        self._is_closed = Event()
        self._writer: Thread | None = None
        self._until = materialized()

    @staticmethod
    def opened(settings: Settings, count: Count) -> "FeatureLog | None":
        """The log of the settings' workspace, None where no share of requests is wanted."""
        if settings.feature_log_share == 0:
            return None
        workspace = settings.workspace
        return FeatureLog(workspace.served_features, settings.feature_log_share, count, MaterializedText(workspace))

    def wants(self, request_id: int) -> bool:
        """Whether the request is in the sample; a request id always gets the same answer."""
        digest = blake2b(request_id.to_bytes(8, "little", signed=True), digest_size=8).digest()
        return int.from_bytes(digest, "little") < self._limit

    def keep(self, record: FeatureRecord) -> None:
        """Takes the record, or counts it as dropped when there is no room or the log is closed."""
        num_posts = len(record.post_ids)
        with self._lock:
            is_taken = not self._is_closed.is_set() and self._num_waiting + num_posts <= self._max_posts
            if is_taken:
                self._waiting.append((record, self._until))
                self._num_waiting += num_posts
                if self._writer is None:
                    self._writer = Thread(target=self._write_on, name="feature-log", daemon=True)
                    self._writer.start()
        if not is_taken:
            self._count("dropped", num_posts)

    def forget(self, user_ids: Collection[int]) -> None:
        """Drops records of these users that wait to be written."""
        with self._lock:
            self._waiting = [kept for kept in self._waiting if kept[0].user_id not in user_ids]
            self._num_waiting = sum(len(record.post_ids) for record, _ in self._waiting)

    def lost(self, num_posts: int) -> None:
        """Counts posts whose record could not be made."""
        self._count("failed", num_posts)

    def flush(self) -> None:
        """Writes what waits. Raises nothing; what cannot be written is counted and gone."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
            num_posts, self._num_waiting = self._num_waiting, 0
        if not waiting:
            return
        try:
            write_feature_log(self._folder, waiting)
            self._count("kept", num_posts)
        except Exception as error:  # a full disk, a folder without permission, a column that Arrow cannot hold
            self._count("failed", num_posts)
            logger("serving").warning("features not kept", folder=str(self._folder), posts=num_posts, reason=str(error))

    def close(self) -> None:
        """Writes what waits and ends the thread; later records are dropped."""
        self._is_closed.set()
        if self._writer is not None:
            self._writer.join(CLOSE_SECONDS)
        self.flush()

    def _write_on(self) -> None:
        self._prune()
        while not self._is_closed.wait(FLUSH_SECONDS):
            self._until = self._materialized()
            if self._waiting:
                self.flush()
                self._prune()

    def _prune(self) -> None:
        try:
            prune_feature_log(self._folder)
        except OSError as error:
            logger("serving").warning("old features not dropped", folder=str(self._folder), reason=str(error))


class MaterializedText:
    """How far each view is materialised, as JSON; the registry is read again only when its file has changed."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._modified = -1
        self._text = "{}"

    def __call__(self) -> str:
        """`{view: instant}`, `{}` where the registry says nothing. Raises nothing."""
        try:
            modified = registry_path(self._workspace).stat().st_mtime_ns
            if modified != self._modified:
                until = materialized_until(self._workspace)
                self._text = json.dumps({view: at.isoformat() for view, at in until.items()})
                self._modified = modified
        except FileNotFoundError:
            return "{}"
        except (VitrineError, OSError, ValueError) as error:
            logger("serving").warning("materialisation times not read", reason=str(error))
        return self._text
