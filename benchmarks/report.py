"""What every benchmark shares: medians, the table, the last line, the dated result."""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from core.clock import WallClock
from core.files import write_atomically

RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Durations:
    """Durations of one call in milliseconds."""

    median: float
    tenth: float
    """Tenth percentile: what the call takes when nothing else wants the processor."""


def durations_ms(calls: Mapping[str, Callable[[], object]], seconds: float, at_least: int = 5) -> dict[str, Durations]:
    """Durations of each call, over as many as fit in `seconds` each, after one that warms up.

    The calls take turns, so that what else the machine does falls on all of them alike.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    while any(len(t) < at_least or sum(t) < seconds for t in taken.values()):
        for name, call in calls.items():
            if len(taken[name]) < at_least or sum(taken[name]) < seconds:
                taken[name].append(seconds_of(call))
    return {n: Durations(median(t) * 1000, sorted(t)[len(t) // 10] * 1000) for n, t in taken.items()}


def seconds_of(call: Callable[[], object]) -> float:
    """Duration of one call in seconds."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def print_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table with numbers to the right."""
    table = Table(title=title)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    Console(width=140).print(table)


def finish(
    benchmark: str, ratio_to_stock: float | None, ratio_to_floor: float, is_quick: bool, raw: Mapping[str, Any]
) -> None:
    """Writes the dated result and prints it as the last line: one JSON object.

    `ratio_to_stock` says how many times better than the stock way, `ratio_to_floor` how many times the
    floor's time or memory, both of the headline case; None where nothing stock does the
    work. `raw` has the medians behind them.
    """
    line = {
        "benchmark": benchmark,
        "ratio_to_stock": None if ratio_to_stock is None else round(ratio_to_stock, 2),
        "ratio_to_floor": round(ratio_to_floor, 2),
        "is_quick": is_quick,
        "num_cpus": os.cpu_count(),
        "python": platform.python_version(),
        **raw,
    }
    day = WallClock().now().strftime("%Y-%m-%d")
    suffix = "-quick" if is_quick else ""
    write_atomically(RESULTS / f"{day}-{benchmark}{suffix}.json", json.dumps(line, indent=2) + "\n")
    print(json.dumps(line), flush=True)
