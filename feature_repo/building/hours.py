"""The arithmetic of hours. An hour is counted since 1970 and its number names its end."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from feature_repo.catalog import PUBLISH_LAG, WINDOWS

US_PER_HOUR = 3_600_000_000
US_PER_SECOND = 1_000_000
LAG_US = int(PUBLISH_LAG.total_seconds()) * US_PER_SECOND
FIRST_HOUR = -8_000_000
"""Before every event: the year 1057. A span that begins here is a build from nothing."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def micros(at: datetime) -> int:
    """Microseconds since 1970."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def instant(hour: int) -> datetime:
    """The end of the hour."""
    return _EPOCH + timedelta(hours=hour)


def published(hour: int) -> int:
    """Microseconds since 1970 at which rows of the hour become known."""
    return hour * US_PER_HOUR + LAG_US


def last_published(at: int) -> int:
    """The last hour whose rows are known at `at` microseconds since 1970."""
    return (at - LAG_US) // US_PER_HOUR


@dataclass(frozen=True)
class Span:
    """Hours `first` to `last`, both included, that one build computes.

    `checkpoint` is the last of them that no later event can change; state is kept as of it. Rows that
    are not of an hour are those known after the hour before `first` was published, up to `until`
    microseconds since 1970; None takes all.
    """

    first: int
    last: int
    checkpoint: int
    until: int | None

    @property
    def is_whole(self) -> bool:
        """Whether nothing comes before."""
        return self.first == FIRST_HOUR

    @property
    def num_hours(self) -> int:
        return self.last - self.first + 1

    @property
    def is_hour(self) -> bool:
        """Whether it is a single hour."""
        return self.num_hours == 1

    @property
    def known_after(self) -> int:
        return published(self.first - 1)

    def leaving(self) -> list[tuple[int, int]]:
        """Hours of events, as disjoint ranges, that leave a window within the span."""
        if self.is_whole:
            return []
        ranges = sorted((self.first - hours, self.last - hours) for hours in WINDOWS.values() if hours)
        joined: list[tuple[int, int]] = []
        for first, last in ranges:
            if joined and first <= joined[-1][1] + 1:
                joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
            else:
                joined.append((first, last))
        return joined

    def steps(self, first_day: int, days_per_step: int = 1) -> Iterator["Span"]:
        """The span in steps of whole days, so that memory is bounded by those of one.

        `first_day`, counted since 1970, is the first that is a day of its own.
        """
        start = self.first
        while start <= self.last:
            day = max(start // 24, first_day)
            end = min(self.last, (day + days_per_step) * 24 - 1)
            is_last = end == self.last
            yield Span(start, end, min(self.checkpoint, end), self.until if is_last else published(end))
            start = end + 1
        if self.first > self.last:  # no hour has ended, yet profiles may have changed
            yield self
