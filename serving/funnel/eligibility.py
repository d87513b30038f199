"""Who may be shown what, decided for the whole catalogue at once, before any ranking.

One code per post: 0 eligible, else the first reason that keeps it out. What depends only on language,
country and hour is kept between requests; a request pays one copy of a byte per post, and otherwise only for
the posts that it excludes itself.
"""

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from serving.funnel.eligible import EligiblePosts, SharedCodes
from serving.funnel.state import Controls
from serving.snapshot import UNKNOWN, Catalogue
from serving.spec import EligibilitySpec

REASONS = (
    "eligible", "not_recommendable", "low_integrity", "too_old", "not_yet_published", "other_language",
    "other_country", "seen", "hidden", "blocked_creator", "muted_topic", "already_served",
)  # fmt: skip
_CODE = {reason: np.uint8(code) for code, reason in enumerate(REASONS)}
_MAX_CACHED = 32
_SECONDS_PER_DAY = 86_400.0


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

    def __init__(self, spec: EligibilitySpec, catalogue: Catalogue) -> None:
        self._spec = spec
        self._catalogue = catalogue
        self._cache: OrderedDict[tuple[int, int, int], SharedCodes] = OrderedDict()
        self._topics: dict[int, NDArray[np.int64]] = {}
        self._lock = Lock()

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

    def _marks(self, controls: Controls, exclude_rows: NDArray[np.int64]) -> list[tuple[str, NDArray[np.int64]]]:
        """What only this request leaves out, by reason; the user's own wishes overrule the general reasons."""
        muted = [self._rows_of_topic(topic) for topic in controls.muted_topic_ids]
        blocked = [self._catalogue.creator_rows(creator) for creator in controls.blocked_creator_ids]
        return [
            ("seen", controls.seen_rows),
            *(("muted_topic", rows) for rows in muted),
            ("hidden", controls.hidden_rows),
            *(("blocked_creator", rows) for rows in blocked),
            ("already_served", exclude_rows),
        ]

    def _rows_of_topic(self, topic: int) -> NDArray[np.int64]:
        if topic not in self._topics:
            self._topics[topic] = np.flatnonzero(self._catalogue.topic_ids == topic)
        return self._topics[topic]

    def _shared(self, language: int, country: int, at_seconds: float) -> SharedCodes:
        key = (language, country, int(at_seconds // 3600))
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        shared = SharedCodes(self._compute(language, country, at_seconds))
        with self._lock:
            # Whoever came first is kept: what others derive from the codes is kept by their identity.
            shared = self._cache.setdefault(key, shared)
            while len(self._cache) > _MAX_CACHED:
                self._cache.popitem(last=False)
        return shared

    def _compute(self, language: int, country: int, at_seconds: float) -> NDArray[np.uint8]:
        posts = self._catalogue
        age = at_seconds - posts.created_at
        rules = [
            (
                "other_country",
                (posts.country_codes != country) & (posts.country_codes != UNKNOWN) & (country != UNKNOWN),
            ),
            (
                "other_language",
                (posts.language_codes != language) & (posts.language_codes != UNKNOWN) & (language != UNKNOWN),
            ),
            # The base lives for the rest of its hour; a post published within it may show up to that much early.
            ("not_yet_published", age < -3600.0),
            ("too_old", age > self._spec.max_age_days * _SECONDS_PER_DAY),
            ("low_integrity", posts.integrity < self._spec.min_integrity),
            ("not_recommendable", ~posts.is_recommendable),
        ]
        codes = np.zeros(len(posts), dtype=np.uint8)
        for reason, is_out in rules:
            codes[is_out] = _CODE[reason]
        return codes
