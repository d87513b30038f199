"""Memory of materialising 5,000,000 entities × 25 features as a stream of Arrow batches.

The source is a generator, so that what is measured is the engine's way from a batch to Redis. The
offline store's own memory is its limit (VITRINE_DUCKDB_MEMORY).

    python -m benchmarks.materialize_memory [--quick]
"""

import resource
import sys
import warnings
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from benchmarks.feast_views import NOW, PACKED, PACKED_ENGINE, make_view, open_repo, scratch, write_items
from benchmarks.report import finish, print_table, seconds_of
from tests.redis_servers import redis_server

NUM_FEATURES, BATCH_ROWS = 25, 20_000
NUM_ROWS = {True: 1_000_000, False: 5_000_000}
TABLE_BYTES_PER_ROW = 8 + 4 * NUM_FEATURES + 16


def main(is_quick: bool) -> None:
    from feature_repo.stores.packed.reader import packed_store

    num_rows = NUM_ROWS[is_quick]
    with scratch() as folder, redis_server() as port:
        write_items(folder / "items.parquet", 10, NUM_FEATURES, seed=1)
        view = make_view("items", folder / "items.parquet", NUM_FEATURES)
        online = PACKED | {"connection_string": f"redis://127.0.0.1:{port}/0"}
        repo = open_repo(folder / "repo", [view], online, PACKED_ENGINE, {"type": "duckdb"})
        store, registered = packed_store(repo), repo.get_feature_view("items")

        def stream(rows: int) -> None:
            for _ in store.write_arrow(repo.config, registered, batches(rows)):
                pass

        stream(BATCH_ROWS)
        before = peak_bytes()
        seconds = seconds_of(lambda: stream(num_rows))
        grown, whole = peak_bytes() - before, num_rows * TABLE_BYTES_PER_ROW
    print_table(
        f"Streaming {num_rows:,} entities × {NUM_FEATURES} features into packed rows",
        ["", "MB"],
        [
            ["peak of the process before", f"{before / 1e6:,.0f}"],
            ["growth while streaming", f"{grown / 1e6:,.0f}"],
            ["the whole table in Arrow, for comparison", f"{whole / 1e6:,.0f}"],
        ],
    )
    # Stock Feast holds at least the whole Arrow table; the floor is one batch.
    finish(
        "materialize_memory",
        whole / max(grown, 1),
        max(grown, 1) / (BATCH_ROWS * TABLE_BYTES_PER_ROW),
        is_quick,
        {"num_rows": num_rows, "grown_bytes": grown, "peak_bytes": before + grown, "seconds": round(seconds, 1)},
    )


def batches(num_rows: int) -> Iterator[pa.RecordBatch]:
    random = np.random.default_rng(1)
    for start in range(0, num_rows, BATCH_ROWS):
        size = min(BATCH_ROWS, num_rows - start)
        at = pa.array(np.full(size, np.datetime64(NOW.replace(tzinfo=None), "us")), pa.timestamp("us", tz="UTC"))
        features = {f"f{i}": random.normal(size=size).astype(np.float32) for i in range(NUM_FEATURES)}
        yield pa.RecordBatch.from_pydict(
            {"item_id": np.arange(start, start + size), **features, "event_at": at, "known_at": at}
        )


def peak_bytes() -> int:
    """Highest resident memory of this process so far; Linux counts in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main("--quick" in sys.argv)
