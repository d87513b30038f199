"""Takes what a deleted user left behind out of every store of the server, within seconds.

A deletion is an event of the journal, and `erased.json` says up to which place the files are done: a server that was
killed in between goes on where it was. Every process clears what it holds itself; one of them clears the files that
need to be searched. What a request that was under way wrote after the first pass goes with the second.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Event, Thread
from time import monotonic

from core.clock import Clock
from core.files import write_atomically
from core.logs import logger
from core.workspace import Workspace
from events.journal import Journal
from events.lock import exclusive
from events.served import ServedLog
from serving.bootstrap import Runtime
from serving.feature_log_files import forget_users as forget_features
from serving.feed import Feed
from serving.precomputed import forget_users as forget_slates

PERIOD_SECONDS = 0.5
SECOND_PASS_SECONDS = 2.0
"""By then every process knows, and requests that were under way have ended."""
GRACE = timedelta(seconds=1)
"""What was asked for so long after a process met the deletion may still be the user's; later pages are a stranger's."""

Forget = Callable[[Sequence[int], datetime], object]
"""Erases what users left until an instant."""


@dataclass(frozen=True)
class _Due:
    """Deletions that wait for their second pass."""

    place: int
    user_ids: tuple[int, ...]
    until: datetime
    at_seconds: float


class Erasure:
    """One thread per process."""

    def __init__(
        self, workspace: Workspace, journal: Journal, clock: Clock, held: Mapping[str, Forget], files: Forget
    ) -> None:
        """`held`: what clears each store that this process keeps open, by name; `files`: what is searched."""
        self._workspace = workspace
        self._mark = workspace.root / "erased.json"
        self._journal = journal
        self._clock = clock
        self._held = dict(held)
        self._files = files
        self._place = self._marked()
        self._due: list[_Due] = []
        self._is_failing = False
        self._is_over = Event()
        self._thread = Thread(target=self._run, name="erasure", daemon=True)

    def start(self) -> None:
        """Begins to follow the journal."""
        self._thread.start()

    def stop(self) -> None:
        """Ends; what is not done is done after the next start."""
        self._is_over.set()
        self._thread.join(10)

    def step(self) -> None:
        """Erases what was deleted since the last step, and what waits for its second pass."""
        found = self._journal.deleted_users(self._place)
        if found:
            users = tuple(dict.fromkeys(user_id for _, user_id in found))
            until = self._clock.now() + GRACE
            self._clear(users, until)
            self._place = found[-1][0]
            self._due.append(_Due(self._place, users, until, monotonic() + SECOND_PASS_SECONDS))
        while self._due and self._due[0].at_seconds <= monotonic():
            due = self._due[0]
            self._clear(due.user_ids, due.until)
            self._search(due)
            self._due.pop(0)

    def _run(self) -> None:
        while not self._is_over.wait(PERIOD_SECONDS):
            try:
                self.step()
                self._is_failing = False
            except Exception as error:  # a full disk, a file that another process holds: tried again
                if not self._is_failing:
                    logger("serving").warning("deleted users not erased yet, trying again", reason=repr(error))
                self._is_failing = True

    def _clear(self, user_ids: Sequence[int], until: datetime) -> None:
        for forget in self._held.values():
            forget(user_ids, until)

    def _search(self, due: _Due) -> None:
        with exclusive(self._workspace.root, "erasure"):
            if self._marked() < due.place:
                self._files(due.user_ids, due.until)
                write_atomically(self._mark, json.dumps({"place": due.place}))

    def _marked(self) -> int:
        try:
            return int(json.loads(self._mark.read_text())["place"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0


def open_erasure(runtime: Runtime, served: ServedLog, feed: Feed) -> Erasure:
    """What erases deleted users from everything that a server keeps of them."""
    workspace, feature_log = runtime.workspace, runtime.feature_log

    def forget_memory(user_ids: Sequence[int], until: datetime) -> None:
        for user_id in user_ids:
            feed.visits.forget(user_id)
        if feature_log is not None:
            feature_log.forget(user_ids)

    held: dict[str, Forget] = {
        "memory": forget_memory,
        "served log": served.forget,
        "explanations": feed.explanations.forget,
        "precomputed slates": lambda user_ids, until: forget_slates(workspace.precomputed, user_ids),
    }
    return Erasure(
        workspace, runtime.journal, runtime.clock, held,
        lambda user_ids, until: forget_features(workspace.served_features, user_ids),
    )  # fmt: skip
