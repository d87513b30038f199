"""Recall and latency of single searches, of the default by number of posts, and of searches that leave posts out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.ann_vectors import Floats
from benchmarks.ann_ways import DEFAULT, K, Rows, Search, default_index
from benchmarks.report import seconds_of
from core.clock import WallClock
from models.ann import PostIndex, load_index, write_index

ROUNDS = 5
FILTERED_K = 1_000


@dataclass(frozen=True)
class Measured:
    """Milliseconds of one search, the mean share of the wanted posts that it found, and the fewest posts found."""

    p50: float
    p99: float
    recall: float
    fewest: int


def take_turns(
    searches: Mapping[str, tuple[Search, int]], users: Floats, wanted: Sequence[Rows]
) -> dict[str, Measured]:
    """Each search over its number of the users, one by one, in rounds that the searches share."""
    taken: dict[str, list[float]] = {name: [] for name in searches}
    found: dict[str, list[Rows]] = {name: [] for name in searches}
    for part in range(ROUNDS):
        for name, (search, number) in searches.items():
            search(users[:1])
            for user in users[part:number:ROUNDS, None]:
                taken[name].append(seconds_of(lambda s=search, u=user, n=name: found[n].append(s(u))))  # type: ignore[misc]
    return {
        name: _measured(taken[name], found[name], [w for p in range(ROUNDS) for w in wanted[p:number:ROUNDS]])
        for name, (_, number) in searches.items()
    }


def _measured(seconds: list[float], found: Sequence[Rows], wanted: Sequence[Rows]) -> Measured:
    shares = [len(np.intersect1d(f, w)) / len(w) for f, w in zip(found, wanted, strict=True)]
    p50, p99 = np.quantile(seconds, [0.5, 0.99]) * 1000
    return Measured(float(p50), float(p99), float(np.mean(shares)), min(int((f >= 0).sum()) for f in found))


def exact_rows(posts: Floats, users: Floats, k: int, eligible: NDArray[np.bool_] | None = None) -> list[Rows]:
    """Rows of the best posts per user, fewer than `k` where no more are eligible."""
    index = faiss.IndexFlatIP(posts.shape[1])
    kept = np.arange(len(posts)) if eligible is None else np.flatnonzero(eligible)
    index.add(posts[kept])
    return [kept[rows] for rows in index.search(users, min(k, len(kept)))[1]]


def blas(posts: Floats, num_bytes: int) -> Callable[[Floats], Rows]:
    """A matrix-vector product over `num_bytes` of the posts, other ones each time; finds nothing."""
    num_rows = num_bytes // posts[0].nbytes
    rng = np.random.default_rng(0)

    def multiply(user: Floats) -> Rows:
        start = int(rng.integers(len(posts) - num_rows + 1))
        return (posts[start : start + num_rows] @ user[0])[:0].astype(np.int64)

    return multiply


def by_size(posts: Floats, users: Floats, sizes: Sequence[int], root: Path) -> dict[int, dict[str, Measured]]:
    """The exact scan and the inverted file on the first posts, whichever of the two is the default there."""
    found = {}
    for size in sizes:
        some = posts[:size]
        exact = faiss.IndexFlatIP(posts.shape[1])
        exact.add(some)
        inverted = next(way for way in default_index(some, root) if way.setting.endswith(DEFAULT))
        searches: dict[str, tuple[Search, int]] = {
            "exact": (lambda user, index=exact: index.search(user, K)[1][0], len(users)),  # type: ignore[misc]
            "inverted": (inverted.search, len(users)),
        }
        found[size] = take_turns(searches, users, exact_rows(some, users, K))
    return found


def by_share(
    posts: Floats, clusters: NDArray[np.int64], users: Floats, root: Path
) -> dict[str, tuple[int, dict[str, Measured]]]:
    """Per kind of filter the eligible posts and the ways to find `FILTERED_K` of them."""
    rng = np.random.default_rng(3)
    counts = np.bincount(clusters)
    rarest = np.argsort(counts)
    few = rarest[: int(np.searchsorted(np.cumsum(counts[rarest]), len(posts) // 100)) + 1]
    drawn = rng.random(len(posts))
    kinds = {
        "half, anywhere": drawn < 0.5,
        "10 %, anywhere": drawn < 0.1,
        "1 %, anywhere": drawn < 0.01,
        "1 %, in clusters of their own": np.isin(clusters, few),
    }
    exact, inverted = (_index(posts, root, below) for below in (len(posts) + 1, 1))
    found = {}
    for kind, eligible in kinds.items():
        ways: dict[str, Search] = {
            "exact": _filtered(exact, eligible),
            "inverted": _filtered(inverted, eligible),
            "wide, then filtered": _widening(inverted, eligible),
        }
        searches = {name: (way, len(users)) for name, way in ways.items()}
        wanted = exact_rows(posts, users, FILTERED_K, eligible)
        found[kind] = (int(eligible.sum()), take_turns(searches, users, wanted))
    return found


def _index(posts: Floats, root: Path, exact_below: int) -> PostIndex:
    manifest = write_index(root, np.arange(len(posts)), posts, "bundle", WallClock().now(), exact_below)
    return load_index(root / manifest.index_id, "bundle")


def _filtered(index: PostIndex, eligible: NDArray[np.bool_]) -> Search:
    return lambda user: index.search(user, FILTERED_K, eligible)[0][0]


def _widening(index: PostIndex, eligible: NDArray[np.bool_]) -> Search:
    """Without a mask: as many posts as should hold enough eligible ones, then more, then all that the lists hold."""

    def search(user: Floats) -> Rows:
        width = int(FILTERED_K / eligible.mean() * 1.3)
        while True:
            rows = index.search(user, min(width, len(eligible)))[0][0]
            kept: Rows = rows[(rows >= 0) & eligible[rows]]
            if len(kept) >= FILTERED_K or width >= len(eligible):
                return kept[:FILTERED_K]
            width *= 4

    return search
