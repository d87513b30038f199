"""Semantic ids: the content of a post as a few codes, coarse first, so that a new post shares rows with its likes.

Each level is k-means on what the levels before left over. A post's id at level l is its first l codes as one number.
Legend: N posts, D width of the content, L levels, K codes of a level.
Source: Rajput et al., Recommender systems with generative retrieval, NeurIPS 2023; Singh et al., Better
generalization with semantic ids, RecSys 2024.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError

NUM_LEVELS = 3
NUM_CODES = 256
MIN_POSTS_PER_CODE = 4
ROUNDS = 20
CHUNK_POSTS = 4_096


def has_content(content_ND: NDArray[Any]) -> NDArray[np.bool_]:
    """[N], false where the embedding is missing: not finite, or nothing but zeros."""
    present: NDArray[np.bool_] = np.isfinite(content_ND).all(1) & (content_ND != 0).any(1)
    return present


def fit_codebook(
    content_ND: NDArray[Any], num_levels: int = NUM_LEVELS, num_codes: int = NUM_CODES, seed: int = 0
) -> NDArray[np.float32]:
    """Codebook [L, K, D] of distinct posts with content; K is less than `num_codes` where posts are few.

    Raises InputError where no row has content.
    """
    import faiss

    found_ND = np.unique(content_ND[has_content(content_ND)].astype(np.float32), axis=0)
    if not len(found_ND):
        raise InputError(
            "no post has a content embedding, so there is nothing to make semantic ids of; import content_embedding "
            "or train a recipe without them"
        )
    size = max(1, min(num_codes, len(found_ND) // MIN_POSTS_PER_CODE))
    rest_ND, levels = found_ND, []
    for level in range(num_levels):
        kmeans = faiss.Kmeans(found_ND.shape[1], size, niter=ROUNDS, seed=seed + level, min_points_per_centroid=1)
        kmeans.train(rest_ND)
        levels.append(np.array(kmeans.centroids, dtype=np.float32))
        rest_ND = rest_ND - levels[-1][_nearest(rest_ND, levels[-1])]
    return np.stack(levels)


def _nearest(points_ND: NDArray[Any], centres_KD: NDArray[np.float32]) -> NDArray[np.int64]:
    # Double precision: the answer must not depend on how many rows are asked at once.
    centres = centres_KD.astype(np.float64)
    half_K = np.square(centres).sum(1) / 2
    nearest_N = np.empty(len(points_ND), dtype=np.int64)
    for start in range(0, len(points_ND), CHUNK_POSTS):
        rows = slice(start, start + CHUNK_POSTS)
        nearest_N[rows] = (points_ND[rows].astype(np.float64) @ centres.T - half_K).argmax(1)
    return nearest_N


def codes_of(content_ND: NDArray[Any], codebook_LKD: NDArray[np.float32]) -> NDArray[np.int64]:
    """Codes [N, L] of content; -1 for a post without. Raises ValueError for another width."""
    if content_ND.ndim != 2 or content_ND.shape[1] != codebook_LKD.shape[2]:
        raise ValueError(f"content has shape {content_ND.shape}, the codebook is for [N, {codebook_LKD.shape[2]}]")
    present = has_content(content_ND)
    codes_NL = np.full((len(content_ND), len(codebook_LKD)), -1, dtype=np.int64)
    rest_ND = content_ND[present].astype(np.float32)
    for level, centres_KD in enumerate(codebook_LKD):
        codes = _nearest(rest_ND, centres_KD)
        codes_NL[present, level] = codes
        rest_ND = rest_ND - centres_KD[codes]
    return codes_NL


def semantic_ids(codes_NL: NDArray[np.int64], level: int, num_codes: int) -> NDArray[np.int64]:
    """The first `level` codes as one number [N], -1 where there are none."""
    ids_N = np.zeros(len(codes_NL), dtype=np.int64)
    for codes_N in codes_NL[:, :level].T:
        ids_N = ids_N * num_codes + codes_N
    return np.where(codes_NL[:, 0] < 0, -1, ids_N)
