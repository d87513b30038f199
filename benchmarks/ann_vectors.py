"""Post and user vectors like trained ones, in any number: a mixture fitted to a trained bundle's vectors.

python -m benchmarks.ann_vectors POSTS.npy USERS.npy      fits again and replaces `ann_vectors.npz`

Vectors are those of a two-tower bundle: D directions of one length and a last entry, the post's bias or 1. Each side
is a mixture of clusters by k-means with their own spread per direction, the directions being those in which vectors
differ within clusters; samples are put back to the length that trained vectors have.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

FITTED = Path(__file__).with_suffix(".npz")
NUM_CLUSTERS = 128

Floats = NDArray[np.float32]


def fit(vectors_ND: Floats, seed: int) -> dict[str, NDArray[np.float16]]:
    """Shares and means of clusters, spreads [K, D] along `basis` [D, D] (columns), and the length."""
    clusters: Any = faiss.Kmeans(vectors_ND.shape[1], NUM_CLUSTERS, niter=20, seed=seed)
    clusters.train(vectors_ND)
    of_N = clusters.index.search(vectors_ND, 1)[1][:, 0]
    counts = np.bincount(of_N, minlength=NUM_CLUSTERS)
    means = np.stack(
        [vectors_ND[of_N == k].mean(0) if counts[k] else clusters.centroids[k] for k in range(len(counts))]
    )
    rest_ND = vectors_ND - means[of_N]
    basis = np.linalg.eigh(np.cov(rest_ND.T))[1]
    turned_ND = rest_ND @ basis
    spreads = np.stack([turned_ND[of_N == k].std(0) if counts[k] else np.zeros(len(basis)) for k in range(len(counts))])
    length = np.linalg.norm(vectors_ND[:, :-1], axis=1).mean()
    parts = {"shares": counts / counts.sum(), "means": means, "spreads": spreads, "basis": basis, "length": length}
    return {name: np.asarray(part, dtype=np.float16) for name, part in parts.items()}


def sample(side: str, count: int, seed: int) -> tuple[Floats, NDArray[np.int64]]:
    """`count` vectors of "posts" or "users", [N, D + 1], and the cluster of each, [N]."""
    with np.load(FITTED, allow_pickle=False) as file:
        fitted = {name: file[f"{side}_{name}"].astype(np.float32) for name in _NAMES}
    return draw(fitted, count, seed)


_NAMES = ("shares", "means", "spreads", "basis", "length")


def draw(fitted: Mapping[str, Floats], count: int, seed: int) -> tuple[Floats, NDArray[np.int64]]:
    """What `sample` gives, from the parts that `fit` gives."""
    rng = np.random.default_rng(seed)
    shares = fitted["shares"].astype(np.float64)
    of_N = rng.choice(len(shares), size=count, p=shares / shares.sum())
    noise_ND = rng.standard_normal((count, len(fitted["basis"])), dtype=np.float32)
    vectors_ND = fitted["means"][of_N] + (noise_ND * fitted["spreads"][of_N]) @ fitted["basis"].T
    lengths_N1 = np.linalg.norm(vectors_ND[:, :-1], axis=1, keepdims=True)
    vectors_ND[:, :-1] *= fitted["length"] / lengths_N1
    return np.ascontiguousarray(vectors_ND, dtype=np.float32), of_N


def main(posts: str, users: str) -> None:
    parts = {
        f"{side}_{name}": part
        for side, path in (("posts", posts), ("users", users))
        for name, part in fit(np.load(path, allow_pickle=False), seed=0).items()
    }
    np.savez_compressed(FITTED, **parts)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*sys.argv[1:3])
