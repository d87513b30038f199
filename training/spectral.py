"""First vectors of users and posts from who engaged with what: the leading singular vectors of that matrix.

Training starts where the graph of engagements is already smooth: each user near the posts of users alike.
Legend: N engagements, U users, P posts, D dimensions.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

POWER_ITERATIONS = 6

Floats = NDArray[np.float32]
Int64s = NDArray[np.int64]


def spectral_vectors(
    users_N: Int64s, posts_N: Int64s, num_users: int, num_posts: int, dim: int, damping: float, seed: int = 0
) -> tuple[Floats, Floats]:
    """Unit vectors [U, D] and [P, D], directions weighted by their singular values; zeros for who has no engagement.

    The matrix counts engagements, each divided by the roots of its user's and its post's number of them plus
    `damping`, which keeps rare ones from owning a direction.
    Source: Halko et al., Finding structure with randomness, 2011.
    """
    from sklearn.utils.extmath import randomized_svd

    matrix_UP = _damped(users_N, posts_N, num_users, num_posts, damping)
    left_UD, singular_D, right_DP = randomized_svd(
        matrix_UP, min(dim, num_users, num_posts), n_iter=POWER_ITERATIONS, random_state=seed
    )
    return _unit_rows(left_UD * singular_D, dim), _unit_rows(right_DP.T * singular_D, dim)


def _damped(users_N: Int64s, posts_N: Int64s, num_users: int, num_posts: int, damping: float) -> Any:
    from scipy import sparse  # type: ignore[import-untyped]

    user_degrees = np.bincount(users_N, minlength=num_users) + damping
    post_degrees = np.bincount(posts_N, minlength=num_posts) + damping
    values_N = 1.0 / np.sqrt(user_degrees[users_N] * post_degrees[posts_N])
    return sparse.csr_matrix((values_N.astype(np.float32), (users_N, posts_N)), shape=(num_users, num_posts))


def _unit_rows(vectors: Floats, dim: int) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.where(lengths > 1e-9, vectors / np.maximum(lengths, 1e-9), 0.0)
    return np.pad(unit, ((0, 0), (0, dim - vectors.shape[1]))).astype(np.float32)
