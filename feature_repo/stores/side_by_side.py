"""Calls on connections to one database, several at a time: one joins while another lays out its columns."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

import duckdb

T = TypeVar("T")

INTERRUPT_EVERY_SECONDS = 0.05


def side_by_side(
    pool: ThreadPoolExecutor,
    calls: Sequence[Callable[[duckdb.DuckDBPyConnection], T]],
    connections: Sequence[duckdb.DuckDBPyConnection],
) -> list[T]:
    """Results of `calls` in their order, each called with its own connection.

    Raises the first exception of any call, or what interrupts the caller, once the other calls have ended: what
    they run on their connections is interrupted.
    """
    futures = [pool.submit(call, connection) for call, connection in zip(calls, connections, strict=True)]
    try:
        for future in wait(futures, return_when=FIRST_EXCEPTION).done:
            future.result()
        return [future.result() for future in futures]
    except BaseException:
        for future in futures:
            future.cancel()
        # More than once, since an interrupt meets only the query that runs right then.
        while wait(futures, INTERRUPT_EVERY_SECONDS).not_done:
            for connection in connections:
                connection.interrupt()
        raise
