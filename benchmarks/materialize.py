"""Materialisation of 500,000 rows × 25 features from Parquet into one Redis.

stock    feast materialize: Feast's DuckDB store, local engine and Redis store, on a sample of the same rows
ours     feast materialize: the ASOF store, the packed engine and the packed store, all rows
floor    bare pipelined SETs of the same keys and bytes, by redis-py; nothing is read, packed or compared
script   the compare-and-set alone, on the same keys and bytes, into an empty and into a filled database

python -m benchmarks.materialize [--quick]
"""

import contextlib
import io
import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import redis

from benchmarks.feast_views import ASOF, NOW, PACKED, PACKED_ENGINE, STOCK, make_view, open_repo, scratch, write_items
from benchmarks.report import finish, print_table, seconds_of
from tests.redis_servers import redis_server

NUM_ROWS, NUM_FEATURES = 500_000, 25
STOCK_ROWS = {True: 10_000, False: 50_000}
REPEATS = {True: 3, False: 5}
PIPELINE_ROWS = 2_000


def main(is_quick: bool) -> None:
    with scratch() as folder, redis_server() as port:
        table = write_items(folder / "all.parquet", NUM_ROWS, NUM_FEATURES, seed=1)
        num_stock = STOCK_ROWS[is_quick]
        write_items(folder / "sample.parquet", num_stock, NUM_FEATURES, seed=1)
        stock = stock_way(folder, port)
        ours = our_way(folder, port)
        bare, unchecked, fresh, again = bare_ways(folder, port, table)
        ways = {"stock": stock, "ours": ours, "floor": bare, "mset": unchecked, "script": fresh, "script again": again}
        client = redis.Redis(port=port)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(REPEATS[is_quick]):  # in turns, so that other load falls on all alike
            for name, way in ways.items():
                if name != "script again":
                    client.flushall()
                seconds[name].append(seconds_of(way))
        client.close()
    rates = {n: (num_stock if n == "stock" else NUM_ROWS) / median(s) for n, s in seconds.items()}
    show(rates, num_stock, is_quick)


def stock_way(folder: Path, port: int) -> Callable[[], None]:
    view = make_view("items", folder / "sample.parquet", NUM_FEATURES)
    online = STOCK | {"connection_string": f"127.0.0.1:{port},db=0"}
    return partial(feast_run, open_repo(folder / "stock", [view], online, "local", {"type": "duckdb"}))


def our_way(folder: Path, port: int) -> Callable[[], None]:
    view = make_view("items", folder / "all.parquet", NUM_FEATURES)
    online = PACKED | {"connection_string": f"redis://127.0.0.1:{port}/1"}
    return partial(feast_run, open_repo(folder / "ours", [view], online, PACKED_ENGINE, ASOF))


def feast_run(store: Any) -> None:
    with contextlib.redirect_stdout(io.StringIO()):  # Feast prints a line per view
        store.materialize(NOW - timedelta(days=1), NOW)


def bare_ways(folder: Path, port: int, table: pa.Table) -> tuple[Callable[[], None], ...]:
    """SETs in pipelines, MSETs, the script into an empty database and the script once more over the same rows."""
    from feature_repo.stores.packed.keys import KeySpace
    from feature_repo.stores.packed.layout import layout_of
    from feature_repo.stores.packed.rows import pack_batch
    from feature_repo.stores.packed.server import SingleServer

    view = make_view("items", folder / "all.parquet", NUM_FEATURES)
    entities, rows = pack_batch(layout_of(view), view, table)
    keys = KeySpace("bench").keys("items", entities)
    client, server = redis.Redis(port=port, db=2), SingleServer(f"redis://127.0.0.1:{port}/2")
    chunks = [slice(start, start + PIPELINE_ROWS) for start in range(0, NUM_ROWS, PIPELINE_ROWS)]

    def pipelined() -> None:
        for chunk in chunks:
            with client.pipeline(transaction=False) as pipe:
                for key, row in zip(keys[chunk], rows[chunk], strict=True):
                    pipe.set(key, row)
                pipe.execute()

    def msets() -> None:
        for chunk in chunks:
            client.mset(dict(zip(keys[chunk], rows[chunk], strict=True)))

    def script() -> None:
        for _ in server.write([(keys, rows)]):
            pass

    return pipelined, msets, script, script


def show(rates: dict[str, float], num_stock: int, is_quick: bool) -> None:
    labels = {
        "stock": f"stock Feast, end to end ({num_stock:,} rows)",
        "ours": "ours, end to end",
        "floor": "floor: pipelined SET of the same bytes",
        "mset": "MSET of the same bytes, for comparison",
        "script": "compare-and-set of the same bytes, new rows",
        "script again": "compare-and-set, nothing newer",
    }
    rows = [[labels[name], f"{rate:,.0f}", f"{rate / rates['stock']:.1f}x"] for name, rate in rates.items()]
    print_table(
        f"Materialise {NUM_ROWS:,} rows × {NUM_FEATURES} features, medians", ["", "rows/s", "against stock"], rows
    )
    finish(
        "materialize",
        rates["ours"] / rates["stock"],
        rates["floor"] / rates["ours"],
        is_quick,
        {
            "compare_and_set_ratio_to_floor": round(rates["floor"] / rates["script"], 2),
            "compare_and_set_ratio_to_mset": round(rates["mset"] / rates["script"], 2),
            "num_stock_rows": num_stock,
            "median_rows_per_second": {name: round(rate) for name, rate in rates.items()},
        },
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main("--quick" in sys.argv)
