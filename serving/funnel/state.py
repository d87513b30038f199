"""What every stage may see of the request it works for."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from feature_repo.columns import Columns
from serving.funnel.budget import Budget
from serving.funnel.eligible import EligiblePosts
from serving.funnel.request import FeedRequest
from serving.snapshot import Snapshot


@dataclass(frozen=True)
class Controls:
    """What the user asked of their feed and did lately: the snapshot's facts with the journal's on top."""

    seen_rows: NDArray[np.int64]
    hidden_rows: NDArray[np.int64]
    blocked_creator_ids: frozenset[int] = frozenset()
    followed_creator_ids: frozenset[int] = frozenset()
    muted_topic_ids: frozenset[int] = frozenset()
    recent: tuple[tuple[int, str, float], ...] = ()
    """Engagements since the snapshot, newest first: catalogue row, kind, unix seconds."""
    seen_long_ago: Callable[[NDArray[np.int64]], NDArray[np.bool_]] | None = None
    """Whether each row is among seen posts too many to list; None where all are in `seen_rows`."""


@dataclass
class RequestState:
    """One request on its way. `user` is None where the feature store did not answer."""

    request: FeedRequest
    at_seconds: float
    snapshot: Snapshot
    user_row: int
    language_code: int
    country_code: int
    controls: Controls
    user: Columns | None
    eligibility: NDArray[np.uint8]
    """Code of the reason that keeps each post of the catalogue out, 0 where none does, [P]."""
    eligible: EligiblePosts
    """The same as a set, for a search over the whole catalogue."""
    rng: np.random.Generator
    degraded: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    budget: Budget = field(default_factory=Budget)

    def is_eligible(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each post may be shown, [N]."""
        is_eligible = np.asarray(self.eligibility[rows] == 0)
        if self.controls.seen_long_ago is not None:
            is_eligible &= ~self.controls.seen_long_ago(rows)
        return is_eligible

    def degrade(self, part: str) -> None:
        """Notes that the slate had to do without `part`."""
        if part not in self.degraded:
            self.degraded.append(part)

    @property
    def has_history(self) -> bool:
        """Whether anything is known of what the user likes."""
        if self.controls.recent:
            return True
        return self.user is not None and bool((self.user["user_history__history_post_ids"][0] >= 0).any())
