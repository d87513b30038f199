"""Online reads: 1 to 500 entities × 100 features over 4 views, from one Redis.

stock    Feast's Redis store, get_online_features
ours     the packed store, get_online_features
direct   the packed store's direct reader, which serving uses
floor    MGET of the same packed rows by keys made beforehand, and numpy.frombuffer over them

python -m benchmarks.online_read [--quick]
"""

import contextlib
import io
import sys
import warnings
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import redis

from benchmarks.feast_views import NOW, PACKED, PACKED_ENGINE, STOCK, make_view, open_repo, scratch, write_items
from benchmarks.report import Durations, durations_ms, finish, print_table
from tests.redis_servers import redis_server

NUM_VIEWS, NUM_FEATURES, NUM_ITEMS = 4, 25, 2_000
SIZES = (1, 10, 100, 500)
HEADLINE = 500


def main(is_quick: bool) -> None:
    with scratch() as folder, redis_server() as port:
        ways = prepare(folder, port)
        seconds = 0.5 if is_quick else 3.0
        taken = {size: take_turns(size, ways, seconds) for size in SIZES}
    show(taken, is_quick)


def take_turns(
    size: int, ways: Mapping[str, Callable[[int], Callable[[], object]]], seconds: float
) -> dict[str, Durations]:
    """Durations of each way of reading `size` entities.

    Feast keeps what it parsed of one registry only: two stores in turn would each pay 8 ms to parse theirs again.
    """
    calls = {name: way(size) for name, way in ways.items()}
    return durations_ms({"stock": calls.pop("stock")}, seconds) | durations_ms(calls, seconds)


def prepare(folder: Path, port: int) -> dict[str, Callable[[int], Callable[[], object]]]:
    """Both stores filled with the same rows; per way of reading a maker of the call for N entities."""
    from feature_repo.stores.packed.reader import PackedReader, packed_store

    views = []
    for place in range(NUM_VIEWS):
        write_items(folder / f"v{place}.parquet", NUM_ITEMS, NUM_FEATURES, seed=place)
        views.append(make_view(f"v{place}", folder / f"v{place}.parquet", NUM_FEATURES))
    duckdb = {"type": "duckdb"}
    stock = open_repo(folder / "stock", views, STOCK | {"connection_string": f"127.0.0.1:{port},db=0"}, "local", duckdb)
    url = f"redis://127.0.0.1:{port}/1"
    ours = open_repo(folder / "ours", views, PACKED | {"connection_string": url}, PACKED_ENGINE, duckdb)
    for store in (stock, ours):
        with contextlib.redirect_stdout(io.StringIO()):  # Feast prints a line per view
            store.materialize(NOW - timedelta(days=1), NOW)
    service = ours.get_feature_service("all")
    stock_service = stock.get_feature_service("all")
    reader = PackedReader.of_service(ours, service)
    client = redis.Redis.from_url(url)
    store, config = packed_store(ours), ours.config

    def ids(size: int) -> np.ndarray:
        return np.random.default_rng(size).permutation(NUM_ITEMS)[:size]

    def feast_read(repo: Any, chosen: Any) -> Callable[[int], Callable[[], object]]:
        def way(size: int) -> Callable[[], object]:
            rows = {"item_id": ids(size).tolist()}
            return lambda: repo.get_online_features(chosen, rows, full_feature_names=True)

        return way

    def direct(size: int) -> Callable[[], object]:
        wanted = {"item_id": ids(size)}
        return lambda: reader.read(wanted)

    def floor(size: int) -> Callable[[], object]:
        from feature_repo.stores.packed.keys import entities_of_ids

        space, entities = store.key_space(config), entities_of_ids("item_id", ids(size))
        keys = [key for view in views for key in space.keys(view.name, entities)]
        return lambda: np.frombuffer(b"".join(client.mget(keys)), dtype=np.uint8)

    check_equal(stock, ours, reader, ids(HEADLINE))
    return {
        "stock": feast_read(stock, stock_service),
        "ours": feast_read(ours, service),
        "direct": direct,
        "floor": floor,
    }


def check_equal(stock: Any, ours: Any, reader: Any, ids: np.ndarray) -> None:
    """The ways compared read the same values."""
    rows = {"item_id": ids.tolist()}
    theirs = stock.get_online_features(stock.get_feature_service("all"), rows, full_feature_names=True).to_dict()
    through_feast = ours.get_online_features(ours.get_feature_service("all"), rows, full_feature_names=True).to_dict()
    block = reader.read({"item_id": ids})
    if through_feast != theirs:
        raise SystemExit("the two stores answer differently; the times below would mean nothing")
    for column, name in enumerate(block.float_names):
        np.testing.assert_array_equal(block.floats[:, column], np.array(theirs[name], dtype=np.float32))


def show(taken: dict[int, dict[str, Durations]], is_quick: bool) -> None:
    medians = {size: {name: d.median for name, d in of.items()} for size, of in taken.items()}
    lowest = {size: {name: d.tenth for name, d in of.items()} for size, of in taken.items()}
    rows = [
        [
            str(size),
            *(f"{of[name]:.2f}" for name in ("stock", "ours", "direct", "floor")),
            f"{of['stock'] / of['ours']:.1f}x",
            f"{of['stock'] / of['direct']:.0f}x",
            f"{of['direct'] / of['floor']:.2f}",
        ]
        for size, of in medians.items()
    ]
    print_table(
        "Online read, 100 features over 4 views, medians in ms",
        [
            "entities",
            "stock",
            "ours, get_online_features",
            "ours, direct",
            "floor",
            "stock / ours",
            "stock / direct",
            "direct / floor",
        ],
        rows,
    )
    head = medians[HEADLINE]
    finish(
        "online_read",
        head["stock"] / head["direct"],
        head["direct"] / head["floor"],
        is_quick,
        {
            "get_online_features_ratio_to_stock": round(head["stock"] / head["ours"], 2),
            "median_ms": _rounded(medians),
            "tenth_percentile_ms": _rounded(lowest),
        },
    )


def _rounded(taken: dict[int, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {str(size): {name: round(ms, 3) for name, ms in of.items()} for size, of in taken.items()}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main("--quick" in sys.argv)
