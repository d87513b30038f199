"""The ways to find nearest posts that `benchmarks.ann` compares: built, with their bytes and their settings.

Every approximate way gets the posts without their mean, which changes no ranking and which none does well with;
"ivf, not centred" is what FAISS makes of the vectors as they are.
"""

import pickle
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.ann_vectors import Floats
from benchmarks.report import seconds_of
from core.clock import WallClock
from models.ann import PostIndex, load_index, write_index

K = 500
SLOW_QUERIES = 20
MAX_TRAINING_POSTS = 200_000
DEFAULT = "default"
_faiss: Any = faiss  # its type hints know fewer names than the library

Rows = NDArray[np.int64]
Search = Callable[[Floats], Rows]


@dataclass(frozen=True)
class Way:
    """One setting of one structure: `search` gives the rows [K] of the posts nearest to a user [1, D]."""

    family: str
    setting: str
    search: Search
    bytes: int
    build_seconds: float
    is_slow: bool = False
    """Few queries are all that one can wait for."""
    bytes_read: int = 0
    """What one search reads, where the floor asks for it."""


def ways(posts_ND: Floats, is_quick: bool, root: Path) -> Iterator[Way]:
    """All of them, built one after the other."""
    centred_ND = posts_ND - posts_ND.mean(axis=0)
    lists = int(2 ** np.round(np.log2(2 * np.sqrt(len(posts_ND)))))
    yield from _plain("exact", "Flat", posts_ND)
    yield from default_index(posts_ND, root)
    probes = (64, 256) if is_quick else (16, 64, 128, 256, 512)
    yield from _inverted("ivf, not centred", f"IVF{lists},SQfp16", posts_ND, probes)
    # "np": without polysemous codes, which cost minutes of training and serve another way of searching.
    for bytes_ in (16,) if is_quick else (16, 32):
        yield from _inverted(f"ivf pq{bytes_}", f"IVF{lists},PQ{bytes_}np", centred_ND, probes[-2:])
        yield from _plain("pq", f"PQ{bytes_}np", centred_ND)
    yield from _graph(centred_ND, 16 if is_quick else 32, (500, 1000) if is_quick else (500, 1000, 2000))
    for bits in (256,) if is_quick else (256, 512):
        yield from _hashed(centred_ND, bits, (20,) if is_quick else (10, 40))
    yield from _tree(centred_ND, (0.5,) if is_quick else (0.0, 0.2, 0.5, 1.0))


def default_index(posts_ND: Floats, root: Path, exact_below: int = 1) -> Iterator[Way]:
    """What `models/ann.py` writes and serving loads, at its own number of probes and around it."""
    found: list[PostIndex] = []

    def build() -> None:
        manifest = write_index(root, np.arange(len(posts_ND)), posts_ND, "bundle", WallClock().now(), exact_below)
        found.append(load_index(root / manifest.index_id, "bundle"))

    seconds = seconds_of(build)
    post_index = found[0]
    index, probes = post_index._index, post_index.manifest.num_probes
    size = (root / post_index.manifest.index_id / "index.faiss").stat().st_size

    def searching(number: int) -> Search:
        def search(user: Floats) -> Rows:
            index.nprobe = number
            return post_index.search(user, K)[0][0]

        return search

    for number in (probes // 4, probes // 2, probes, 2 * probes):
        setting = f"{post_index.manifest.factory}, {number} probes" + f", {DEFAULT}" * (number == probes)
        read = index.nlist * index.d * 4 + index.ntotal * index.code_size * number // index.nlist
        yield Way("ivf, centred", setting, searching(number), size, seconds, bytes_read=read)


def file_bytes(index: Any) -> int:
    """Bytes of an index as FAISS writes it."""
    with tempfile.NamedTemporaryFile() as file:
        faiss.write_index(index, file.name)
        return Path(file.name).stat().st_size


def _built(index: Any, vectors_ND: Floats) -> float:
    def build() -> None:
        index.train(vectors_ND[:: max(1, len(vectors_ND) // MAX_TRAINING_POSTS)])
        index.add(vectors_ND)

    return seconds_of(build)


def _factory(factory: str, dim: int) -> Any:
    return faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)


def _plain(family: str, factory: str, vectors_ND: Floats) -> Iterator[Way]:
    index = _factory(factory, vectors_ND.shape[1])
    seconds = _built(index, vectors_ND)
    yield Way(family, factory, lambda user: index.search(user, K)[1][0], file_bytes(index), seconds)


def _inverted(family: str, factory: str, vectors_ND: Floats, probes: tuple[int, ...]) -> Iterator[Way]:
    index = _factory(factory, vectors_ND.shape[1])
    seconds = _built(index, vectors_ND)
    for number in probes:
        chosen = _faiss.SearchParametersIVF(nprobe=number)
        search = _with_parameters(index, chosen)
        yield Way(family, f"{factory}, {number} probes", search, file_bytes(index), seconds)


def _graph(vectors_ND: Floats, links: int, widths: tuple[int, ...]) -> Iterator[Way]:
    # On inner products as they are the graph finds .4 of the posts: its greedy steps end at the longest vectors.
    long_ND = lengthened(vectors_ND)
    index = faiss.IndexHNSWFlat(long_ND.shape[1], links)
    index.hnsw.efConstruction = 64
    seconds = _built(index, long_ND)
    for width in widths:
        search = _with_parameters(index, _faiss.SearchParametersHNSW(efSearch=width))
        yield Way("hnsw", f"HNSW{links}, efSearch {width}", _of_units(search), file_bytes(index), seconds)


def _with_parameters(index: Any, chosen: Any) -> Search:
    return lambda user: index.search(user, K, params=chosen)[1][0]


def lengthened(vectors_ND: Floats) -> Floats:
    """[N, D + 1]: one more entry makes all equally long, so that the nearest has the largest inner product."""
    squares_N = np.square(vectors_ND).sum(axis=1)
    extra_N = np.sqrt(np.maximum(squares_N.max() - squares_N, 0.0))
    return np.ascontiguousarray(np.concatenate([vectors_ND, extra_N[:, None]], axis=1))


def unit_user(user_1D: Floats) -> Floats:
    """[1, D + 1] of length 1 with a last entry of 0: the partner of `lengthened`."""
    user = np.zeros((1, user_1D.shape[1] + 1), dtype=np.float32)
    user[:, :-1] = user_1D / np.linalg.norm(user_1D)
    return user


def _of_units(search: Search) -> Search:
    return lambda user: search(unit_user(user))


def _hashed(vectors_ND: Floats, bits: int, factors: tuple[int, ...]) -> Iterator[Way]:
    long_ND = lengthened(vectors_ND)
    index = faiss.IndexRefineFlat(faiss.IndexLSH(long_ND.shape[1], bits))
    seconds = _built(index, long_ND)
    for factor in factors:
        chosen = _faiss.IndexRefineSearchParameters(k_factor=factor)
        search = _with_parameters(index, chosen)
        setting = f"LSH{bits}, {factor * K:,} ranked again"
        yield Way(f"lsh {bits}", setting, _of_units(search), file_bytes(index), seconds)


def _tree(vectors_ND: Floats, allowances: tuple[float, ...]) -> Iterator[Way]:
    from scipy.spatial import cKDTree  # type: ignore[import-untyped]

    long_ND = lengthened(vectors_ND)
    trees: list[Any] = []
    seconds = seconds_of(lambda: trees.append(cKDTree(long_ND, leafsize=64, balanced_tree=False)))
    tree = trees[0]
    with tempfile.TemporaryFile() as file:
        pickle.dump(tree, file, protocol=5)
        size = file.tell()
    for eps in allowances:

        def search(user: Floats, eps: float = eps) -> Rows:
            return np.asarray(tree.query(unit_user(user)[0], K, eps=eps)[1])

        yield Way("kd-tree", f"cKDTree, eps {eps:g}", search, size, seconds, is_slow=True)
