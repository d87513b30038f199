"""What is cached, by what, and what drops an entry early. Sizes and ages stand in the spec, hit rates are measured."""

from collections.abc import Mapping
from dataclasses import dataclass

from serving.funnel.row_cache import CacheCounts
from serving.schemas import CacheReply
from serving.spec_limits import CachesSpec


@dataclass(frozen=True)
class CacheFacts:
    """What one cache is keyed by, and what else than age and room ends an entry."""

    key: str
    invalidation: str


CACHES: Mapping[str, CacheFacts] = {
    "post_features": CacheFacts(
        "post id", "a post that is written or deleted leaves at once; new models or limits start anew"
    ),
    "creator_features": CacheFacts(
        "creator id", "new models or limits start anew; hourly features wait for the age limit"
    ),
    "eligibility": CacheFacts(
        "language, country and hour",
        "written posts are judged again; the user's own wishes are laid over it per request",
    ),
    "slates": CacheFacts(
        "ranked list of a visit, named in its cursor",
        "a post that was deleted, hidden, muted or of a blocked creator leaves at once; a deleted user's lists too",
    ),
}
"""By the names of `caches` in the spec."""


def report(declared: CachesSpec, counts: Mapping[str, CacheCounts]) -> list[CacheReply]:
    """Every cache of the spec; zeros where one was not asked yet."""
    reports = []
    for name, facts in CACHES.items():
        limits, counted = getattr(declared, name), counts.get(name, CacheCounts())
        reports.append(
            CacheReply(
                name=name,
                key=facts.key,
                invalidation=facts.invalidation,
                max_entries=limits.max_entries,
                max_age_seconds=limits.max_age_seconds,
                num_hits=counted.num_hits,
                num_misses=counted.num_asked - counted.num_hits,
                hit_rate=counted.hit_rate,
            )
        )
    return reports
