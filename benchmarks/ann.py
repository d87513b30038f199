"""Nearest posts: exact, inverted file, product quantisation, graph, hashing and KD-tree, 1 M × 64, one thread.

stock    FAISS's exact scan
ours     the default of `models/ann.py`, as serving loads it
floor    one BLAS matrix-vector product over as many bytes as ours reads for a user

Recall is the share of the 500 exactly best posts that are found. Bytes are those of the index written to a file.
Also: the default by number of posts, and searches for 1,000 posts that leave others out.

python -m benchmarks.ann [--quick]        100,000 posts and fewer settings with --quick
"""

import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import faiss

from benchmarks.ann_measure import FILTERED_K, Measured, blas, by_share, by_size, exact_rows, take_turns
from benchmarks.ann_plot import plot_recall
from benchmarks.ann_vectors import sample
from benchmarks.ann_ways import DEFAULT, SLOW_QUERIES, K, Way, ways
from benchmarks.report import finish, print_table

EXACT, FLOOR = "Flat", "floor"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "ann.png"


def main(is_quick: bool) -> None:
    faiss.omp_set_num_threads(1)
    count, num_users = (100_000, 100) if is_quick else (1_000_000, 500)
    posts, clusters = sample("posts", count, seed=1)
    users, _ = sample("users", num_users, seed=2)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        built = {}
        for way in ways(posts, is_quick, root):
            print(f"{way.setting}: {way.build_seconds:.0f} s", file=sys.stderr, flush=True)
            built[way.setting] = way
        default = next(way for way in built.values() if way.setting.endswith(DEFAULT))
        searches = {name: (way.search, SLOW_QUERIES if way.is_slow else num_users) for name, way in built.items()}
        searches[FLOOR] = (blas(posts, default.bytes_read), num_users)
        found = take_turns(searches, users, exact_rows(posts, users, K))
        sizes = by_size(posts, users[:100], (30_000, 100_000) if is_quick else (10_000, 30_000, 100_000, 300_000), root)
        shares = by_share(posts, clusters, users[: 10 if is_quick else 100], root)
    of = f"{count:,} x {posts.shape[1]}"
    show_ways(built, found, of)
    show_sizes(sizes)
    show_shares(shares, of)
    if not is_quick:
        points = [(way.family, found[n].p50, found[n].recall, way is default) for n, way in built.items()]
        plot_recall(PICTURE, points, f"Nearest {K} of {count:,} posts, {posts.shape[1]} wide")
    ours = found[default.setting].p50
    raw = {
        "vectors": of,
        "default": default.setting,
        "exact_p50_ms": round(found[EXACT].p50, 3),
        "default_p50_ms": round(ours, 3),
        "floor_p50_ms": round(found[FLOOR].p50, 3),
        "ways": {
            name: _rounded(found[name]) | {"bytes": way.bytes, "build_seconds": round(way.build_seconds, 1)}
            for name, way in built.items()
        },
        "by_size": {str(size): {name: _rounded(m) for name, m in ms.items()} for size, ms in sizes.items()},
        "filtered": {kind: {name: _rounded(m) for name, m in ms.items()} for kind, (_, ms) in shares.items()},
    }
    finish("ann", found[EXACT].p50 / ours, ours / found[FLOOR].p50, is_quick, raw)


def show_ways(built: Mapping[str, Way], found: Mapping[str, Measured], of: str) -> None:
    rows = [
        [
            f"{way.family}: {name}",
            f"{found[name].recall:.4f}",
            f"{found[name].p50:.2f}",
            f"{found[name].p99:.2f}",
            f"{way.bytes / 1e6:,.0f}",
            f"{way.build_seconds:.0f}",
        ]
        for name, way in built.items()
    ]
    print_table(f"{of}, one thread", ["", f"recall@{K}", "p50 ms", "p99 ms", "MB", "build s"], rows)


def show_sizes(sizes: Mapping[int, Mapping[str, Measured]]) -> None:
    rows = [
        [f"{size:,}", *(f"{of[n].p50:.2f}" for n in ("exact", "inverted")), f"{of['inverted'].recall:.4f}"]
        for size, of in sizes.items()
    ]
    print_table("By number of posts", ["posts", "exact p50 ms", "inverted p50 ms", f"its recall@{K}"], rows)


def show_shares(shares: Mapping[str, tuple[int, Mapping[str, Measured]]], of: str) -> None:
    rows = [
        [f"{kind}: {name}", f"{count:,}", f"{m.recall:.4f}", str(m.fewest), f"{m.p50:.2f}", f"{m.p99:.2f}"]
        for kind, (count, ways_of) in shares.items()
        for name, m in ways_of.items()
    ]
    headings = ["", "eligible", f"recall@{FILTERED_K}", "fewest found", "p50 ms", "p99 ms"]
    print_table(f"{FILTERED_K:,} of the eligible posts, {of}", headings, rows)


def _rounded(found: Measured) -> dict[str, float]:
    return {name: round(value, 4) for name, value in asdict(found).items()}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main("--quick" in sys.argv)
