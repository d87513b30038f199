"""Which hours a build computes."""

from dataclasses import dataclass

from core.errors import InputError
from feature_repo.building.hours import FIRST_HOUR, US_PER_HOUR, Span, instant, last_published, published
from feature_repo.building.log_index import LogIndex, changed_files, first_changed_hour, reaches_back
from feature_repo.building.pipelines import GROUPS, Group
from feature_repo.building.state import BuildRecord


@dataclass(frozen=True)
class Plan:
    """Spans to compute by group of views; none where nothing changed.

    `is_closed`: the span ends before the data does, and what follows it stays. `is_revision`: values of rows
    written before may change.
    """

    spans: dict[Group, Span]
    is_whole: bool = False
    is_closed: bool = False
    is_revision: bool = False


@dataclass(frozen=True)
class DataEnd:
    """Where the data ends, in microseconds since 1970.

    Anchored data has ended, so its last hour counts although it is cut. A live hour counts once it is published: a
    row of it made before would miss what is still to come, and no online store takes a second row of one instant.
    """

    at: int
    is_anchored: bool

    @property
    def last_hour(self) -> int:
        return -(-self.at // US_PER_HOUR) if self.is_anchored else last_published(self.at)

    def checkpoint(self, group: Group) -> int:
        """The last hour that later events cannot change; of profiles, that was published by then."""
        return min(self.last_hour, self.at // US_PER_HOUR if group == "hourly" else last_published(self.at))


def plan_whole(end: DataEnd, former: BuildRecord | None, index: LogIndex) -> Plan:
    """A build of everything."""
    spans = {group: Span(FIRST_HOUR, end.last_hour, end.checkpoint(group), None) for group in GROUPS}
    is_revision = former is not None and plan_next(end, former, index).is_revision
    return Plan(spans, is_whole=True, is_revision=is_revision)


def plan_range(end: DataEnd, first: int, last: int) -> Plan:
    """A build of hours `first` to `last` anew, from the log as it is; later rows stay as they are."""
    if not first <= last < end.last_hour:
        raise InputError(
            f"hours {instant(first)} to {instant(last)} are not a range that ends before the data does, at "
            f"{instant(end.last_hour)}; leave out --until to build up to the end"
        )
    return Plan(dict.fromkeys(GROUPS, Span(first, last, last, published(last))), is_closed=True)


def plan_next(end: DataEnd, former: BuildRecord, index: LogIndex, first: int | None = None) -> Plan:
    """A build of what came or changed since `former`, and of everything from hour `first`."""
    changed = changed_files(index, former.logs)
    spans: dict[Group, Span] = {}
    was_cut = former.data_end != end.at and former.last_hour > (former.as_of("hourly") or FIRST_HOUR)
    is_revision = was_cut or reaches_back(changed, former.last_hour, former.data_end)
    for group in GROUPS:
        as_of = former.as_of(group)
        dirty = first_changed_hour(changed, group)
        is_unchanged = former.data_end == end.at and (dirty is None or dirty > end.last_hour) and first is None
        start = min(h for h in (FIRST_HOUR if as_of is None else as_of + 1, dirty, first) if h is not None)
        if not is_unchanged and (group == "profile" or start <= end.last_hour):
            spans[group] = Span(start, max(end.last_hour, start - 1), end.checkpoint(group), None)
    return Plan(spans, is_revision=is_revision)
