"""Learned retrieval: the posts nearest to the user's vector, computed on the freshest features."""

import numpy as np

from core.errors import FeatureStoreError
from serving.funnel.first_stage import user_vector
from serving.funnel.ports import UserTower, VectorSearch
from serving.funnel.sources.base import Found
from serving.funnel.state import RequestState
from serving.spec_sources import TwoTowerSpec


class TwoTowerSource:
    """Searches among the eligible posts only, so that a user of a rare language still gets a full quota."""

    needs_features = True

    def __init__(self, spec: TwoTowerSpec, tower: UserTower, search: VectorSearch) -> None:
        self._spec = spec
        self._tower = tower
        self._search = search

    def find(self, state: RequestState) -> Found:
        if state.user is None:
            raise FeatureStoreError("two-tower retrieval needs the user's features")
        vector_D = user_vector(self._tower, state.user)
        rows, scores = self._search.search(vector_D, self._spec.quota, state.eligible)
        return Found(rows, scores, np.empty(0, dtype=np.int64))
