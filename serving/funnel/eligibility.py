"""Who may be shown what, decided for the whole catalogue at once, before any ranking.

One code per post: 0 eligible, else the first reason that keeps it out. What depends only on language,
country and hour is kept between requests.
"""

from collections import OrderedDict
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from serving.funnel.row_cache import CacheCounts
from serving.funnel.state import Controls
from serving.snapshot import UNKNOWN, Catalogue
from serving.spec import CacheSpec, CachesSpec, EligibilitySpec

REASONS = (
    "eligible", "not_recommendable", "low_integrity", "too_old", "not_yet_published", "other_language",
    "other_country", "seen", "hidden", "blocked_creator", "muted_topic", "already_served",
)  # fmt: skip
_CODE = {reason: np.uint8(code) for code, reason in enumerate(REASONS)}
_SECONDS_PER_DAY = 86_400.0


class Eligibility:
    """Codes of the catalogue for one request."""

    def __init__(self, spec: EligibilitySpec, catalogue: Catalogue, limits: CacheSpec | None = None) -> None:
        self._spec = spec
        self._catalogue = catalogue
        self._limits = limits or CachesSpec().eligibility
        self._cache: OrderedDict[tuple[int, int, int], tuple[int, float, NDArray[np.uint8]]] = OrderedDict()
        self._lock = Lock()
        self.counts = CacheCounts()

    def codes(
        self,
        language_code: int,
        country_code: int,
        controls: Controls,
        exclude_rows: NDArray[np.int64],
        at_seconds: float,
    ) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
        """Reason code of every post [P], and the preferences that had to yield for want of posts."""
        language = language_code if self._spec.language == "match" else UNKNOWN
        country = country_code if self._spec.country == "match" else UNKNOWN
        attempts = [
            (language, country, ()),
            (language, UNKNOWN, ("country",)),
            (UNKNOWN, UNKNOWN, ("country", "language")),
        ]
        for wanted_language, wanted_country, yielded in attempts:
            codes = self.general(wanted_language, wanted_country, at_seconds).copy()
            self._apply_controls(codes, controls, exclude_rows)
            is_last = (wanted_language, wanted_country) == (UNKNOWN, UNKNOWN)
            if is_last or np.count_nonzero(codes == 0) >= self._spec.min_pool:
                return codes, tuple(n for n in yielded if (country if n == "country" else language) != UNKNOWN)
        raise AssertionError("the last attempt always returns")

    def _apply_controls(self, codes: NDArray[np.uint8], controls: Controls, exclude_rows: NDArray[np.int64]) -> None:
        _mark(codes, controls.seen_rows, "seen")
        for topic in controls.muted_topic_ids if self._spec.hide_muted_topics else ():
            _mark(codes, np.flatnonzero(self._catalogue.topic_ids == topic), "muted_topic")
        _mark(codes, controls.hidden_rows, "hidden")
        for creator in controls.blocked_creator_ids:
            _mark(codes, self._catalogue.creator_rows(creator), "blocked_creator")
        _mark(codes, exclude_rows, "already_served")

    def general(self, language: int, country: int, at_seconds: float) -> NDArray[np.uint8]:
        """Reason code of every post for anyone of this language and country, UNKNOWN for any; not to be written."""
        key = (language, country, int(at_seconds // 3600))
        with self._lock:
            version, made_at, codes = self._cache.get(key, (0, 0.0, None))
            if abs(at_seconds - made_at) > self._limits.max_age_seconds:
                version, codes = 0, None
            self.counts.num_asked += 1
            self.counts.num_hits += codes is not None
        # Asked before the codes are made: a post that is written meanwhile is made again by the next request.
        today, changed = self._catalogue.changes_since(version)
        if codes is None:
            codes, made_at = self._compute(language, country, at_seconds, slice(None)), at_seconds
        elif len(changed):
            codes = codes.copy()
            codes[changed] = self._compute(language, country, at_seconds, changed)
        with self._lock:
            self._cache[key] = (today, made_at, codes)
            self._cache.move_to_end(key)
            while len(self._cache) > self._limits.max_entries:
                self._cache.popitem(last=False)
        return codes

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


def _mark(codes: NDArray[np.uint8], rows: NDArray[np.int64], reason: str) -> None:
    """Writes the reason over `rows`; the user's own wishes overrule the general reasons."""
    codes[rows] = _CODE[reason]
