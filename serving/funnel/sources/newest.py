"""Sources of new posts: from followed creators, and those that few users have seen."""

import numpy as np
from numpy.typing import NDArray

from serving.funnel.sources.base import Found, best_eligible, first_eligible, nothing
from serving.funnel.state import RequestState
from serving.snapshot import Catalogue
from serving.spec_sources import FollowedSpec, FreshSpec


class FollowedSource:
    """Recent posts of followed creators, newest first."""

    needs_features = False

    def __init__(self, spec: FollowedSpec, catalogue: Catalogue) -> None:
        self._spec = spec
        self._catalogue = catalogue

    def find(self, state: RequestState) -> Found:
        followed = state.controls.followed_creator_ids
        if not followed:
            return nothing()
        rows, owners = self._catalogue.rows_by_creators(np.fromiter(sorted(followed), dtype=np.int64))
        # Ineligible ones take no place of the creator's share, but stay in view for the report.
        num_eligible = np.concatenate([[0], np.cumsum(state.is_eligible(rows))])
        of_earlier_creators = num_eligible[np.searchsorted(owners, owners)]
        rows = rows[num_eligible[1:] - of_earlier_creators <= self._spec.per_creator]
        created_at = self._catalogue.created_at[rows]
        is_young = state.at_seconds - created_at <= self._spec.max_age_hours * 3600.0
        return best_eligible(rows[is_young], created_at[is_young] - state.at_seconds, state, self._spec.quota)


class FreshSource:
    """New posts with few impressions, newest first."""

    needs_features = False

    def __init__(self, spec: FreshSpec, catalogue: Catalogue) -> None:
        self._spec = spec
        self._catalogue = catalogue
        newest = catalogue.by_age
        self._rows = newest[catalogue.num_impressions[newest] <= spec.max_impressions]
        self._created_at = catalogue.created_at[self._rows].copy()

    def find(self, state: RequestState) -> Found:
        oldest = state.at_seconds - self._spec.max_age_hours * 3600.0
        # Instants fall; their reverse rises.
        end = len(self._rows) - int(np.searchsorted(self._created_at[::-1], oldest, side="left"))
        rows, created_at = self._rows[:end], self._created_at[:end]
        live = self._live(oldest)
        if not len(live):
            found = first_eligible(rows, created_at, state, self._spec.quota)
        else:
            is_held = ~self._catalogue.was_written(rows)
            rows = np.concatenate([live, rows[is_held]])
            created_at = np.concatenate([self._catalogue.created_at[live], created_at[is_held]])
            found = best_eligible(rows, created_at, state, self._spec.quota)
        return found._replace(scores=found.scores - state.at_seconds)

    def _live(self, oldest: float) -> NDArray[np.int64]:
        """Young posts with few impressions that were written since the snapshot."""
        rows, posts = self._catalogue.newest_rows, self._catalogue
        is_young = posts.created_at[rows] >= oldest
        return rows[is_young & (posts.num_impressions[rows] <= self._spec.max_impressions)]
