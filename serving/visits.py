"""Visits: ranked slates kept while a user scrolls, so that pages are cheap and never repeat a post.

A visit is a growing list of ranked posts. Pages are cut from it by offset; when it is used up, the funnel
runs again on fresh features without anything the visit already holds.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from threading import Lock
from weakref import ref

from serving.funnel.request import Slate
from serving.snapshot import Snapshot
from serving.spec_limits import CacheSpec


@dataclass
class Visit:
    """One user's scrolling. `first_offset` posts came before what this list holds.

    `list_id` names the list: a visit that two processes served has one in each, and a cursor belongs to one.
    """

    visit_id: int
    list_id: int
    user_id: int
    surface: str
    started_seconds: float
    first_offset: int = 0
    earlier_post_ids: tuple[int, ...] = ()
    entries: list[tuple[Slate, int]] = field(default_factory=list)
    """Slate and place within it, in the order of the feed."""
    is_exhausted: bool = False
    lock: Lock = field(default_factory=Lock)
    snapshot: ref[Snapshot] | None = None
    """What the rows of the slates are rows of; not kept alive by a visit that rests."""

    @property
    def end(self) -> int:
        """Offset behind the last ranked post."""
        return self.first_offset + len(self.entries)

    def serve_from(self, snapshot: Snapshot) -> None:
        """Makes the rows of all slates those of `snapshot`, UNKNOWN for posts that it lacks. Hold the lock.

        What another snapshot ranked and nobody put in order yet is ranked again.
        """
        if self.snapshot is not None and self.snapshot() is snapshot:
            return
        moved: dict[int, Slate] = {}
        for slate, _ in self.entries:
            if id(slate) not in moved:
                rows = snapshot.catalogue.rows_of(slate.post_ids)
                moved[id(slate)] = replace(slate, candidates=replace(slate.candidates, rows=rows), rest=None)
        self.entries = [(moved[id(slate)], place) for slate, place in self.entries]
        self.snapshot = ref(snapshot)

    def let_go(self) -> None:
        """Forgets what is ranked and not put in order: it keeps the catalogue it was ranked over. Hold the lock."""
        if any(slate.rest is not None for slate, _ in self.entries):
            bare = {id(slate): replace(slate, rest=None) for slate, _ in self.entries}
            self.entries = [(bare[id(slate)], place) for slate, place in self.entries]

    def add(self, slate: Slate) -> None:
        """Appends a slate of the same snapshot. One without posts means that the catalogue has no more."""
        self.entries += [(slate, place) for place in range(len(slate))]
        self.is_exhausted = len(slate) == 0

    @property
    def num_behind(self) -> int:
        """Ranked posts behind `end` that were not put in order yet."""
        rest = self.entries[-1][0].rest if self.entries else None
        return rest.num_posts if rest is not None else 0

    def complete(self) -> None:
        """Appends the posts behind `end` that are ranked already."""
        if self.num_behind:
            slate, place = self.entries[-1]
            whole = slate.whole()
            self.entries += [(whole, later) for later in range(place + 1, len(whole))]

    def held_post_ids(self) -> tuple[int, ...]:
        """Ids of everything the visit showed or will show."""
        return self.earlier_post_ids + tuple(int(slate.post_ids[place]) for slate, place in self.entries)

    def last_creator_ids(self, count: int) -> tuple[int, ...]:
        """Creators of the last ranked posts, in order."""
        return tuple(int(slate.creator_ids[place]) for slate, place in self.entries[-count:]) if count else ()


class Visits:
    """The lists that this process holds, by their id, within the spec's limits."""

    def __init__(self, limits: CacheSpec, now_seconds: Callable[[], float]) -> None:
        self._limits = limits
        self._now = now_seconds
        self._visits: OrderedDict[int, Visit] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._visits)

    def keep(self, visit: Visit) -> None:
        """Holds a visit; the longest unused one leaves when there are too many."""
        with self._lock:
            self._visits[visit.list_id] = visit
            self._visits.move_to_end(visit.list_id)
            while len(self._visits) > self._limits.max_entries:
                self._visits.popitem(last=False)

    def find(self, list_id: int, user_id: int) -> Visit | None:
        """The visit, None when it is not the user's, too old or not held by this process."""
        with self._lock:
            visit = self._visits.get(list_id)
            if visit is None or visit.user_id != user_id:
                return None
            if self._now() - visit.started_seconds > self._limits.max_age_seconds:
                del self._visits[list_id]
                return None
            self._visits.move_to_end(list_id)
            return visit

    def forget(self, user_id: int) -> None:
        """Drops every visit of one user."""
        with self._lock:
            for list_id in [v.list_id for v in self._visits.values() if v.user_id == user_id]:
                del self._visits[list_id]

    def let_go(self) -> None:
        """Has every visit forget what keeps an older snapshot alive."""
        with self._lock:
            visits = list(self._visits.values())
        for visit in visits:
            with visit.lock:
                visit.let_go()

    def started(self) -> float:
        """Now, on the clock that ages visits."""
        return self._now()
