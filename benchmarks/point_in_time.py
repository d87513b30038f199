"""Point-in-time join of impressions with four views: Feast's own DuckDB store, ours, and bare ASOF SQL.

    python -m benchmarks.point_in_time [--quick] [--large]

Each runs in a process of its own, with the same threads, from a pandas frame (SQL: an Arrow table) to an Arrow
table; its memory is the process's peak, Feast and the frame included. The floor reads prepared tables, from which
late rows were already taken; ours reads the raw ones. Feast's own store sorts every earlier row of an impression's
keys: with skewed keys 311 rows an impression, about 45 GB for all, of which it may hold STOCK_MEMORY and spills the
rest. It is stopped after STOCK_SECONDS; its time and memory are then lower bounds. --quick times it on a sample of
the impressions, against all of the history: the speed ratio is then per impression, and the memory ratio against
ours on the same sample. --large adds ours on ten times the impressions. CPU seconds are what a busy machine leaves
comparable.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import point_in_time_data as data
from benchmarks.report import finish, print_table, seconds_of

NUM_IMPRESSIONS, NUM_HISTORY = 1_000_000, 5_000_000
SAMPLE = 100_000
"""Impressions that Feast's own store joins with --quick, evenly taken from all."""
THREADS = 2
STOCK_MEMORY = "12GB"
STOCK_SECONDS = 600
OURS = "feature_repo.stores.asof.AsofOfflineStore"


def runner(engine: str, folder: Path, impressions: pa.Table) -> Callable[[], int]:
    """A call that joins once and says how many rows came out."""
    if engine == "floor":
        return lambda: _bare_join(folder, impressions)
    offline = {"type": "duckdb"} if engine == "stock" else {"type": OURS, "threads": THREADS}
    store, frame = data.open_store(folder, offline), impressions.to_pandas()

    def join() -> int:
        job = store.get_historical_features(
            entity_df=frame, features=data.feature_refs(), full_feature_names=True, filter_by_created_timestamp=True
        )
        if engine == "stream":
            return sum(batch.num_rows for batch in job.to_record_batches())
        return int(job.to_arrow().num_rows)

    return join


def _bare_join(folder: Path, impressions: pa.Table) -> int:
    with duckdb.connect(config={"threads": THREADS, "preserve_insertion_order": False}) as connection:
        connection.register("impressions", impressions)
        return int(connection.sql(data.bare_asof_sql(folder)).to_arrow_table().num_rows)


def measure(engine: str, folder: Path, num_rows: int, repeats: int) -> dict[str, Any]:
    """Median seconds and memory of one engine, in this process and on as many processors as it has threads."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    impressions = pq.read_table(folder / "impressions.parquet")
    if num_rows < len(impressions):
        step = len(impressions) // num_rows
        impressions = impressions.take(pa.array(range(0, num_rows * step, step)))
    if engine == "stock":
        _limit_stock(folder)
    run = runner(engine, folder, impressions)
    before, cpu = _peak_mb(), time.process_time()

    def taken(seconds: float, times: int) -> dict[str, Any]:
        return {
            "rows": num_rows,
            "seconds": round(seconds, 3),
            "cpu_seconds": round((time.process_time() - cpu) / times, 3),
            "peak_mb": _peak_mb(),
            "before_mb": before,
        }

    def give_up() -> None:
        print(json.dumps({**taken(STOCK_SECONDS, 1), "has_ended": False}), flush=True)
        os._exit(0)  # the join in the main thread does not stop for less

    if engine == "stock":
        timer = threading.Timer(STOCK_SECONDS, give_up)
        timer.daemon = True
        timer.start()
    return taken(statistics.median(seconds_of(lambda: _checked(run(), num_rows)) for _ in range(repeats)), repeats)


def _limit_stock(folder: Path) -> None:
    """Threads as for the others, and no more memory than leaves the machine alive; beyond it DuckDB spills."""
    import ibis

    connection = ibis.get_backend().con  # ibis's default backend, which Feast's store uses
    connection.execute(f"SET threads = {THREADS}")
    connection.execute(f"SET memory_limit = '{STOCK_MEMORY}'")
    connection.execute(f"SET temp_directory = '{folder / 'stock_tmp'}'")


def _checked(found: int, wanted: int) -> None:
    if found != wanted:
        raise RuntimeError(f"the join gave {found} rows for {wanted} impressions; expected one each")


def _peak_mb() -> int:
    """Most memory that this process held. Not getrusage: a child begins with its parent's."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


def measured_apart(engine: str, folder: Path, num_rows: int, repeats: int) -> dict[str, Any]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.point_in_time", "--measure", engine, str(folder)]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [*command, str(num_rows), str(repeats)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{engine} on {num_rows} rows ended with {done.returncode}: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def compare(is_quick: bool, is_large: bool) -> None:
    """Runs all engines side by side and prints the report."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "base"
        data.write_data(folder, NUM_IMPRESSIONS, NUM_HISTORY)
        runs = _interleaved(folder, repeats=3)
        runs["stream"] = measured_apart("stream", folder, NUM_IMPRESSIONS, 1)
        stock_rows = SAMPLE if is_quick else NUM_IMPRESSIONS
        runs["stock"] = measured_apart("stock", folder, stock_rows, 1)
        runs["ours, rows of stock"] = measured_apart("ours", folder, stock_rows, 1) if is_quick else runs["ours"]
        if is_large:
            large = Path(name) / "large"
            data.write_data(large, 10 * NUM_IMPRESSIONS, NUM_HISTORY)
            runs["stream, ten times"] = measured_apart("stream", large, 10 * NUM_IMPRESSIONS, 1)
    print_table(
        f"point_in_time: {NUM_IMPRESSIONS:,} impressions x {NUM_HISTORY:,} history rows, {len(data.VIEWS)} views, "
        f"{len(data.feature_refs())} features, {THREADS} threads",
        ["engine", "impressions", "seconds", "CPU seconds", "us per impression", "peak MB", "before the join"],
        [_row(name, run) for name, run in runs.items()],
    )
    _finish(runs, is_quick)


def _interleaved(folder: Path, repeats: int) -> dict[str, dict[str, Any]]:
    """Floor and ours in turn, so that what else the machine does meets both alike."""
    found: dict[str, list[dict[str, Any]]] = {"floor": [], "ours": []}
    for _ in range(repeats):
        for engine, runs in found.items():
            runs.append(measured_apart(engine, folder, NUM_IMPRESSIONS, 1))
    return {
        engine: {number: statistics.median(run[number] for run in runs) for number in runs[0]}
        for engine, runs in found.items()
    }


def _finish(runs: dict[str, dict[str, Any]], is_quick: bool) -> None:
    ours, stock, floor, alike = runs["ours"], runs["stock"], runs["floor"], runs["ours, rows of stock"]
    raw = {
        "cpu_ratio_to_floor": round(ours["cpu_seconds"] / floor["cpu_seconds"], 3),
        "memory_ratio_to_stock": round(stock["peak_mb"] / alike["peak_mb"], 2),
        "join_memory_ratio_to_stock": round(
            (stock["peak_mb"] - stock["before_mb"]) / (alike["peak_mb"] - alike["before_mb"]), 2
        ),
        "stock_impressions": stock["rows"],
        "stock_has_ended": stock.get("has_ended", True),
        "runs": runs,
    }
    to_stock = stock["seconds"] / stock["rows"] * ours["rows"] / ours["seconds"]
    finish("point_in_time", to_stock, ours["seconds"] / floor["seconds"], is_quick, raw)


def _row(name: str, run: dict[str, Any]) -> list[str]:
    micros = 1e6 * run["seconds"] / run["rows"]
    memory = [f"{run[number]:,.0f}" for number in ("peak_mb", "before_mb")]
    seconds = f"{'' if run.get('has_ended', True) else '> '}{run['seconds']:.2f}"
    return [name, f"{run['rows']:,}", seconds, f"{run['cpu_seconds']:.2f}", f"{micros:.2f}", *memory]


def main() -> None:
    """Reads the command line; keeps the result beside the older ones."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.point_in_time", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Feast's own store on a sample; under four minutes")
    parser.add_argument("--large", action="store_true", help="ours on 10 M impressions too")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        engine, folder, rows, repeats = options.measure
        print(json.dumps(measure(engine, Path(folder), int(rows), int(repeats))))
        return
    compare(options.quick, options.large)


if __name__ == "__main__":
    main()
