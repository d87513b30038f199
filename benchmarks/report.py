"""What every benchmark prints: a table to read and, last, one line of JSON."""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console
from rich.table import Table


def median_seconds(run: Callable[[], object], repeats: int) -> float:
    """Median wall seconds of `repeats` calls."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def print_report(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], summary: Mapping[str, object]
) -> None:
    """Prints `rows` under `columns`, then `summary` as the last line."""
    table = Table(title=title)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)
    print(json.dumps(summary))
