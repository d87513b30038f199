"""Who may be shown what, decided for the whole catalogue at once, before any ranking.

One code per post: 0 eligible, else the first reason that keeps it out. What depends only on language,
country and hour is kept between requests; a request pays one copy of a byte per post, and otherwise only for
the posts that it excludes itself.
"""

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.funnel.eligible import EligiblePosts, SharedCodes
from serving.funnel.row_cache import CacheCounts
from serving.funnel.state import Controls
from serving.snapshot import UNKNOWN, Catalogue
from serving.spec_limits import CacheSpec, CachesSpec
from serving.spec_ranking import EligibilitySpec

REASONS = (
    "eligible", "not_recommendable", "low_integrity", "too_old", "not_yet_published", "other_language",
    "other_country", "seen", "hidden", "blocked_creator", "muted_topic", "already_served",
)  # fmt: skip
_CODE = {reason: np.uint8(code) for code, reason in enumerate(REASONS)}
_SECONDS_PER_DAY = 86_400.0


class _Made(NamedTuple):
    """Codes as of a version of the catalogue and an instant."""

    version: int
    at_seconds: float
    shared: SharedCodes


@dataclass(frozen=True)
class Verdict:
    """The outcome for one request."""

    codes: NDArray[np.uint8]
    """Reason code of every post, [P]."""
    eligible: EligiblePosts
    yielded: tuple[str, ...]
    """The preferences that had to yield for want of posts."""


class Eligibility:
    """Codes of the catalogue for one request."""

    def __init__(self, spec: EligibilitySpec, catalogue: Catalogue, limits: CacheSpec | None = None) -> None:
        self._spec = spec
        self._catalogue = catalogue
        self._limits = limits or CachesSpec().eligibility
        self._cache: OrderedDict[tuple[int, int, int], _Made] = OrderedDict()
        self._topics: dict[int, tuple[int, NDArray[np.int64]]] = {}
        self._lock = Lock()
        self.counts = CacheCounts()

    def judge(
        self,
        language_code: int,
        country_code: int,
        controls: Controls,
        exclude_rows: NDArray[np.int64],
        at_seconds: float,
    ) -> Verdict:
        """What the request may show; a preference yields while fewer than `min_pool` posts stay."""
        language = language_code if self._spec.language == "match" else UNKNOWN
        country = country_code if self._spec.country == "match" else UNKNOWN
        attempts = [
            (language, country, ()),
            (language, UNKNOWN, ("country",)),
            (UNKNOWN, UNKNOWN, ("country", "language")),
        ]
        marks = self._marks(controls, exclude_rows)
        excluded = np.concatenate([rows for _, rows in marks])
        for wanted_language, wanted_country, yielded in attempts:
            eligible = EligiblePosts(self._shared(wanted_language, wanted_country, at_seconds), excluded)
            is_last = (wanted_language, wanted_country) == (UNKNOWN, UNKNOWN)
            if is_last or eligible.count >= self._spec.min_pool:
                codes = eligible.shared.codes.copy()
                for reason, rows in marks:
                    codes[rows] = _CODE[reason]
                named = tuple(n for n in yielded if (country if n == "country" else language) != UNKNOWN)
                return Verdict(codes, eligible, named)
        raise AssertionError("the last attempt always returns")

    def general(self, language: int, country: int, at_seconds: float) -> NDArray[np.uint8]:
        """Reason code of every post for anyone of this language and country, UNKNOWN for any; not to be written."""
        return self._shared(language, country, at_seconds).codes

    def _marks(self, controls: Controls, exclude_rows: NDArray[np.int64]) -> list[tuple[str, NDArray[np.int64]]]:
        """What only this request leaves out, by reason; the user's own wishes overrule the general reasons."""
        muted = controls.muted_topic_ids if self._spec.hide_muted_topics else ()
        return [
            ("seen", controls.seen_rows),
            *(("muted_topic", self._rows_of_topic(topic)) for topic in muted),
            ("hidden", controls.hidden_rows),
            *(("blocked_creator", self._catalogue.creator_rows(creator)) for creator in controls.blocked_creator_ids),
            ("already_served", exclude_rows),
        ]

    def _rows_of_topic(self, topic: int) -> NDArray[np.int64]:
        version, rows = self._topics.get(topic, (0, None))
        topics = self._catalogue.topic_ids
        today, changed = self._catalogue.changes_since(version)
        if rows is None:
            rows = np.flatnonzero(topics == topic)
        elif len(changed):
            rows = np.concatenate([np.setdiff1d(rows, changed), changed[topics[changed] == topic]])
        if len(rows):  # users may mute what no post is about; that is not kept
            self._topics[topic] = (today, rows)
        return rows

    def _shared(self, language: int, country: int, at_seconds: float) -> SharedCodes:
        key = (language, country, int(at_seconds // 3600))
        with self._lock:
            held = self._cache.get(key)
            if held is not None and abs(at_seconds - held.at_seconds) > self._limits.max_age_seconds:
                held = None
            self.counts.num_asked += 1
            self.counts.num_hits += held is not None
        # Asked before the codes are made: a post that is written meanwhile is made again by the next request.
        version, changed = self._catalogue.changes_since(held.version if held is not None else 0)
        if held is None:
            codes = self._compute(language, country, at_seconds, slice(None))
            made = _Made(version, at_seconds, SharedCodes(codes))
        elif len(changed):
            codes = held.shared.codes.copy()
            codes[changed] = self._compute(language, country, at_seconds, changed)
            made = _Made(version, held.at_seconds, SharedCodes(codes))
        else:
            made = held
        with self._lock:
            # Of equal codes those that came first are kept: what others derive from them is kept by their identity.
            kept = self._cache.get(key)
            if kept is None or kept.version < made.version or kept.at_seconds != made.at_seconds:
                self._cache[key] = made
            self._cache.move_to_end(key)
            shared = self._cache[key].shared
            while len(self._cache) > self._limits.max_entries:
                self._cache.popitem(last=False)
        return shared

    def _compute(
        self, language: int, country: int, at_seconds: float, rows: NDArray[np.int64] | slice
    ) -> NDArray[np.uint8]:
        posts = self._catalogue
        languages, countries = posts.language_codes[rows], posts.country_codes[rows]
        age = at_seconds - posts.created_at[rows]
        rules = [
            (
                "other_country",
                (countries != country) & (countries != UNKNOWN) & (country != UNKNOWN),
            ),
            (
                "other_language",
                (languages != language) & (languages != UNKNOWN) & (language != UNKNOWN),
            ),
            # The base lives for the rest of its hour; a post published within it may show up to that much early.
            ("not_yet_published", age < -3600.0),
            ("too_old", age > self._spec.max_age_days * _SECONDS_PER_DAY),
            ("low_integrity", posts.integrity[rows] < self._spec.min_integrity),
            ("not_recommendable", ~posts.is_recommendable[rows]),
        ]
        codes = np.zeros(len(age), dtype=np.uint8)
        for reason, is_out in rules:
            codes[is_out] = _CODE[reason]
        return codes
