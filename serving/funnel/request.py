"""What goes into a funnel and what comes out: FeedRequest, Slate and the report of every stage."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from serving.funnel.candidates import Candidates

FALLBACK_SOURCE = "fallback"
"""Source name of posts that only fill an otherwise too short slate."""


@dataclass(frozen=True)
class FeedRequest:
    """One wish for posts. `at` is the serve time; ids are the platform's own."""

    user_id: int
    at: datetime
    limit: int = 20
    surface: str = "explore"
    request_id: int = 0
    session_id: int = 0
    country: str | None = None
    language: str | None = None
    device: str | None = None
    exclude_post_ids: tuple[int, ...] = ()
    """Posts that earlier pages of the visit showed."""
    previous_creator_ids: tuple[int, ...] = ()
    """Creators of the last posts shown above this slate, in order, so that rules hold across pages."""
    first_position: int = 0
    """Place in the visit at which this slate begins."""


@dataclass(frozen=True)
class StageReport:
    """What one stage did: sizes, posts removed by reason, time in seconds, and remarks."""

    name: str
    num_in: int
    num_out: int
    seconds: float
    removed: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    ended: float = field(default_factory=perf_counter, compare=False)
    """When, on `perf_counter`: a report is made as its stage ends."""

    @property
    def is_empty(self) -> bool:
        return self.num_out == 0


@dataclass(frozen=True)
class SlatePost:
    """One post of a slate; position counts from 0."""

    post_id: int
    creator_id: int
    row: int
    position: int
    score: float
    sources: tuple[str, ...]
    propensity: float
    """Probability of this post at this position, given the posts above it."""


@dataclass(frozen=True)
class Explanation:
    """Why a post is where it is."""

    stage_scores: Mapping[str, float]
    probabilities: Mapping[str, float]
    value_contributions: Mapping[str, float]
    rules: tuple[str, ...]


@dataclass(frozen=True)
class Slate:
    """The ordered answer to one request. Candidates are in slate order; `rules` and `propensities` align."""

    request_id: int
    user_id: int
    surface: str
    served_at: datetime
    spec_version: str
    model_versions: Mapping[str, str]
    candidates: Candidates
    post_ids: NDArray[np.int64]
    creator_ids: NDArray[np.int64]
    scores: NDArray[np.float64]
    propensities: NDArray[np.float64]
    rules: tuple[tuple[str, ...], ...]
    source_names: tuple[str, ...]
    heads: tuple[str, ...]
    weights: tuple[float, ...]
    degraded: tuple[str, ...]
    stages: tuple[StageReport, ...]
    rest: "Rest | None" = field(default=None, compare=False, repr=False)
    """What is behind these posts; None where nothing is."""

    def __len__(self) -> int:
        return len(self.post_ids)

    @cached_property
    def posts(self) -> tuple[SlatePost, ...]:
        """The posts in order."""
        return tuple(self.post(place) for place in range(len(self)))

    def post(self, place: int, position: int | None = None) -> SlatePost:
        """The post at `place`, which is its position too unless another is given."""
        return SlatePost(
            post_id=int(self.post_ids[place]),
            creator_id=int(self.creator_ids[place]),
            row=int(self.candidates.rows[place]),
            position=place if position is None else position,
            score=float(self.scores[place]),
            sources=self.sources_of(place),
            propensity=float(self.propensities[place]),
        )

    def sources_of(self, place: int) -> tuple[str, ...]:
        """Every source that brought the post."""
        bits = int(self.candidates.source_bits[place])
        return tuple(name for i, name in enumerate(self.source_names) if bits >> i & 1) or (FALLBACK_SOURCE,)

    def explanation(self, place: int) -> Explanation:
        """Scores of every stage, probabilities, value contributions and rules of one post."""
        scores = {name: float(values[place]) for name, values in self.candidates.scores.items()}
        probabilities: dict[str, float] = {}
        if self.candidates.probabilities is not None:
            row = self.candidates.probabilities[place].tolist()
            probabilities = {head: p for head, p in zip(self.heads, row, strict=True) if p == p}
        contributions = {
            head: weight * probabilities[head]
            for head, weight in zip(self.heads, self.weights, strict=True)
            if head in probabilities
        }
        finite = {name: value for name, value in scores.items() if np.isfinite(value)}
        return Explanation(finite, probabilities, contributions, self.rules[place])

    def whole(self) -> "Slate":
        """The slate with the posts behind it put in order."""
        return self if self.rest is None else self.rest.arranged()

    def head(self, limit: int) -> "Slate":
        """The first `limit` posts."""
        if limit >= len(self):
            return self
        return replace(
            self,
            candidates=self.candidates.take(np.arange(limit)),
            post_ids=self.post_ids[:limit],
            creator_ids=self.creator_ids[:limit],
            scores=self.scores[:limit],
            propensities=self.propensities[:limit],
            rules=self.rules[:limit],
            rest=None,
        )


@dataclass(frozen=True)
class Rest:
    """Posts of a slate that are put in order only when a page needs them."""

    num_posts: int
    arranged: Callable[[], Slate]
    """The whole slate, the same first posts at its head."""
