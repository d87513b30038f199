"""What is cached, by what, and what drops an entry early. Sizes and ages stand in the spec, hit rates are measured."""

from collections.abc import Mapping
from dataclasses import dataclass

from serving.funnel.row_cache import CacheCounts
from serving.spec import CachesSpec


@dataclass(frozen=True)
class CacheFacts:
    """What one cache is keyed by, and what else than age and room ends an entry."""

    key: str
    invalidation: str


CACHES: Mapping[str, CacheFacts] = {
    "post_features": CacheFacts("post id", "a new process; hourly features change no sooner than their age limit"),
    "creator_features": CacheFacts("creator id", "as of posts"),
    "eligibility": CacheFacts(
        "language, country and hour", "a new snapshot; the user's own wishes are written over a copy for each request"
    ),
    "slates": CacheFacts(
        "ranked list of a visit, named in its cursor",
        "a post that was hidden or whose creator was blocked since leaves at once; a new visit starts a new list",
    ),
}
"""By the names of `caches` in the spec."""


@dataclass(frozen=True)
class CacheReport:
    """One cache as declared and as measured since the process started."""

    name: str
    key: str
    invalidation: str
    max_entries: int
    max_age_seconds: float
    num_hits: int
    num_misses: int
    hit_rate: float


def report(declared: CachesSpec, counts: Mapping[str, CacheCounts]) -> list[CacheReport]:
    """Every cache of the spec; zeros where one was not asked yet."""
    reports = []
    for name, facts in CACHES.items():
        limits, counted = getattr(declared, name), counts.get(name, CacheCounts())
        reports.append(
            CacheReport(
                name,
                facts.key,
                facts.invalidation,
                limits.max_entries,
                limits.max_age_seconds,
                counted.num_hits,
                counted.num_asked - counted.num_hits,
                counted.hit_rate,
            )
        )
    return reports
