"""Posts without a user: trending now, popular, and like another post. Only what anyone may be shown."""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from core.clock import Clock
from serving.funnel.eligibility import Eligibility
from serving.funnel.eligible import EligiblePosts, SharedCodes
from serving.funnel.request import FeedRequest
from serving.funnel.sources.base import Found, best_eligible, first_eligible
from serving.funnel.sources.ranked_lists import PopularSource, TrendingSource
from serving.funnel.state import Controls, RequestState
from serving.snapshot import UNKNOWN, Snapshot
from serving.spec_ranking import EligibilitySpec
from serving.spec_sources import PopularSpec, TrendingSpec

ITEM_TO_ITEM, CONTENT = "item_to_item", "content"


@dataclass(frozen=True)
class Listed:
    """Posts of one list, best first: row, score and the source that brought it."""

    at: datetime
    snapshot: Snapshot
    posts: tuple[tuple[int, float, str], ...]


class Browse:
    """Lists over one snapshot. `language` and `country` keep to posts of them and to posts without."""

    def __init__(self, snapshot: Snapshot, eligibility: EligibilitySpec, clock: Clock) -> None:
        self._snapshot = snapshot
        self._eligibility = Eligibility(eligibility, snapshot.catalogue)
        self._clock = clock

    def row_of(self, post_id: int) -> int:
        """Row of the post, UNKNOWN where the snapshot has none."""
        return int(self._snapshot.catalogue.rows_of(np.array([post_id], dtype=np.int64))[0])

    def trending(self, limit: int, language: str | None, country: str | None) -> Listed:
        """What is engaged with most now, by sums that halve every six hours."""
        state = self._state(language, country)
        found = TrendingSource(TrendingSpec(kind="trending", quota=limit), self._snapshot.lists).find(state)
        return _listed(state, (found, "trending"))

    def popular(self, limit: int, language: str | None, country: str | None) -> Listed:
        """What users of the country, else of the language, else everyone engaged with most over a week."""
        state = self._state(language, country)
        segment = "country" if country else "language" if language else "everyone"
        spec = PopularSpec(kind="popular", quota=limit, segment=segment)
        return _listed(state, (PopularSource(spec, self._snapshot.lists).find(state), "popular"))

    def similar(self, row: int, limit: int, language: str | None, country: str | None) -> Listed:
        """Posts that users of this one engage with, then posts of the nearest content."""
        state = self._state(language, country)
        state.eligibility = state.eligibility.copy()
        state.eligibility[row] = np.uint8(255)  # the post itself
        neighbours = self._snapshot.lists.neighbours
        together = first_eligible(neighbours.list_of(row), neighbours.weights_of(row).astype(np.float64), state, limit)
        alike = self._alike(row, state, limit, together.rows)
        return _listed(state, (together, ITEM_TO_ITEM), (alike, CONTENT))

    def _alike(self, row: int, state: RequestState, limit: int, held: NDArray[np.int64]) -> Found:
        content = self._snapshot.catalogue.content
        state.eligibility[held] = np.uint8(255)
        if len(held) >= limit or not content[row].any():
            return first_eligible(held[:0], np.empty(0), state, 1)
        eligible = np.flatnonzero(state.eligibility == 0)
        likeness = (content[eligible] @ content[row]).astype(np.float64)
        nearest = np.argpartition(-likeness, min(limit, len(eligible) - 1))[:limit] if len(eligible) else eligible
        return best_eligible(eligible[nearest], likeness[nearest], state, limit - len(held))

    def _state(self, language: str | None, country: str | None) -> RequestState:
        """A request of nobody in particular."""
        posts, at = self._snapshot.catalogue, self._clock.now()
        codes = posts.language_code(language), posts.country_code(country)
        eligibility = self._eligibility.general(*codes, at.timestamp())
        is_foreign = (language is not None and codes[0] == UNKNOWN) or (country is not None and codes[1] == UNKNOWN)
        if is_foreign:  # a word that no post has
            eligibility = np.full(len(posts), 255, dtype=np.uint8)
        none = np.empty(0, dtype=np.int64)
        return RequestState(
            FeedRequest(UNKNOWN, at), at.timestamp(), self._snapshot, UNKNOWN, *codes, Controls(none, none), None,
            eligibility, EligiblePosts(SharedCodes(eligibility), none), np.random.default_rng(0),
        )  # fmt: skip


def _listed(state: RequestState, *found: tuple[Found, str]) -> Listed:
    posts = [
        (row, score, source)
        for part, source in found
        for row, score in zip(part.rows.tolist(), part.scores.tolist(), strict=True)
    ]
    return Listed(state.request.at, state.snapshot, tuple(posts))
