"""Building the feature tables: everything, one more hour, and everything by plain DuckDB SQL.

    python -m benchmarks.feature_build [--quick] [--folder PLACE]

30 days and 10 M impressions (--quick: 10 days and 1 M), 1 % of events up to two days late. The rebuild and the floor
run in processes of their own and report seconds and peak memory; then the log grows by a day and an hour, and each
hour is built when it has ended, all in one process as a scheduler would. The last but one closes the day, whose files
are merged; the last writes a new base of the state. An hour's share of the rebuild should be at most 3 / (hours of the
log).
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.feature_build_data import FULL, QUICK, GrowingLog, Scale, write_log
from benchmarks.feature_build_floor import build_floor
from benchmarks.report import finish, print_table
from core.settings import Settings
from core.workspace import Workspace
from feature_repo.build import build_features
from feature_repo.building.state import MAX_CHECKPOINTS

_SECONDS = ("seconds", "cpu_seconds")
THREADS = 2
MEMORY = "5GB"
NUM_HOURS = MAX_CHECKPOINTS + 1
"""The last of them finds too many checkpoints and writes a new base."""


def measure(what: str, folder: Path) -> dict[str, Any]:
    """Seconds, processor seconds and peak memory of one way to build, in this process."""
    settings = Settings(var_dir=folder.parent, dataset=folder.name, num_threads=THREADS, duckdb_memory=MEMORY)
    workspace = Workspace(folder)
    started, cpu = time.perf_counter(), time.process_time()
    if what == "floor":
        build_floor(workspace, settings, folder / "floor")
        rows = 0
    else:
        rows = sum(v.rows for v in build_features(workspace, settings).views)
    return {
        "seconds": round(time.perf_counter() - started, 3),
        "cpu_seconds": round(time.process_time() - cpu, 3),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "rows": rows,
    }


def run(scale: Scale, folder: Path) -> dict[str, Any]:
    """All measurements on a new log in `folder`."""
    log = write_log(folder, scale)
    rebuild, floor = _apart("rebuild", folder), _apart("floor", folder)
    hours = [_one_more_hour(log) for _ in range(NUM_HOURS)]
    return {"rebuild": rebuild, "floor": floor, "hours": hours}


def _one_more_hour(log: GrowingLog) -> dict[str, Any]:
    log.write_hour()
    return {**measure("hour", log.workspace.root), "closes_a_day": log.end.hour == 0}


def _apart(what: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.feature_build", "--measure", what, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def report(scale: Scale, measured: dict[str, Any], is_quick: bool) -> None:
    """Prints the table and the last line, and keeps it as a dated result."""
    rebuild, floor = measured["rebuild"], measured["floor"]
    hours = measured["hours"]
    hour, mean = ({k: of(h[k] for h in hours) for k in _SECONDS} for of in (statistics.median, statistics.fmean))
    hour_share = hour["seconds"] / rebuild["seconds"]
    rows = [
        [
            name,
            *(f"{m[k]:.2f}" for k in _SECONDS),
            f"{m.get('peak_gb', '')}",
            *(f"{m[k] / rebuild[k]:.4f}" for k in _SECONDS),
        ]
        for name, m in (
            ("rebuild", rebuild),
            ("floor: plain DuckDB SQL", floor),
            ("one more hour", hour),
            ("the hour that closes a day", next(h for h in hours if h["closes_a_day"])),
            ("the hour with a new base", hours[-1]),
            ("an hour on average of these", mean),
        )
    ]
    title = f"feature_build: {scale.num_impressions:,} impressions, {scale.num_days} days, {rebuild['rows']:,} rows"
    print_table(title, ["", "seconds", "cpu seconds", "peak GB", "of rebuild", "of its cpu"], rows)
    raw = {
        "hour_share_of_rebuild": round(hour_share, 5),
        "hour_share_allowed": round(3 / (24 * scale.num_days), 5),
        "cpu_ratio_to_floor": round(rebuild["cpu_seconds"] / floor["cpu_seconds"], 3),
        "cpu_hour_share_of_rebuild": round(hour["cpu_seconds"] / rebuild["cpu_seconds"], 5),
        "num_days": scale.num_days,
        "num_impressions": scale.num_impressions,
        "rebuild": rebuild,
        "floor": floor,
        "hour": {k: round(v, 3) for k, v in hour.items()},
        "mean_hour": {k: round(v, 3) for k, v in mean.items()},
        "hours": hours,
    }
    finish("feature_build", None, rebuild["seconds"] / floor["seconds"], is_quick, raw)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the log is made; a temporary folder where left out")
    parser.add_argument("--measure", choices=("rebuild", "floor"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.folder)))
        return
    scale = QUICK if given.quick else FULL
    with tempfile.TemporaryDirectory() as temporary:
        place = (given.folder or Path(temporary)) / "bench"
        report(scale, run(scale, place), given.quick)


if __name__ == "__main__":
    main()
