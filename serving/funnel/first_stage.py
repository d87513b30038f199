"""First stage: one dot product per candidate between the user's vector and cached post vectors."""

import numpy as np
from numpy.typing import NDArray

from core.errors import BundleError, FeatureStoreError
from feature_repo.columns import Columns
from serving.funnel.ports import UserTower
from serving.funnel.state import RequestState


def user_vector(tower: UserTower, user: Columns) -> NDArray[np.float32]:
    """The tower's vector of one user, [D]. Raises BundleError where the model reads what is not there."""
    try:
        vector_D = np.asarray(tower.user_vectors(user)[0])
    except ValueError as error:
        raise BundleError(f"bundle {tower.bundle_id} does not fit the user's features: {error}") from error
    if not np.isfinite(vector_D).all():
        raise BundleError(f"bundle {tower.bundle_id} gives the user a vector that is not finite")
    return vector_D


class VectorRanker:
    """The first-stage bundle's user side over the post vectors that were computed beside the index."""

    def __init__(self, tower: UserTower, vectors_PD: NDArray[np.float32], has_vector_P: NDArray[np.bool_]) -> None:
        """Vectors by catalogue row; `has_vector_P` is False where the post came after they were computed.

        `vectors_PD` may end before the catalogue does, where it is a file that processes share.
        """
        self._tower = tower
        self._vectors = vectors_PD
        self._newer = np.zeros((len(has_vector_P) - len(vectors_PD), vectors_PD.shape[1]), dtype=np.float32)
        self._has_vector = has_vector_P

    @property
    def version(self) -> str:
        return self._tower.bundle_id

    @property
    def tower(self) -> UserTower:
        """The bundle that made the vectors."""
        return self._tower

    def lacking(self) -> NDArray[np.int64]:
        """Rows of the catalogue without a vector."""
        return np.flatnonzero(~self._has_vector)

    def put(self, rows: NDArray[np.int64], vectors_ND: NDArray[np.float32]) -> None:
        """Vectors of posts that were written after the others were computed."""
        is_newer = rows >= len(self._vectors)
        self._vectors[rows[~is_newer]] = vectors_ND[~is_newer]
        self._newer[rows[is_newer] - len(self._vectors)] = vectors_ND[is_newer]
        self._has_vector[rows] = True

    def scores(self, state: RequestState, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Logit of being in the second stage's top, [N]. A post without a vector gets the median."""
        if state.user is None:
            raise FeatureStoreError("the first stage needs the user's features")
        user_D = user_vector(self._tower, state.user)
        scores = (self._vectors_of(rows) @ user_D).astype(np.float64)
        has_vector = self._has_vector[rows]
        if has_vector.any() and not has_vector.all():
            scores[~has_vector] = np.median(scores[has_vector])
        return np.asarray(scores)

    def _vectors_of(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        is_newer = rows >= len(self._vectors)
        if not is_newer.any():
            return self._vectors[rows]
        vectors = self._vectors[np.where(is_newer, 0, rows)]
        vectors[is_newer] = self._newer[rows[is_newer] - len(self._vectors)]
        return vectors
