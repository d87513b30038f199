"""Lanes: connections to one database, each of which takes the next call when it has done the last."""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import duckdb

from feature_repo.stores.duckdb_engine import another
from feature_repo.stores.side_by_side import side_by_side

Call = Callable[[duckdb.DuckDBPyConnection], None]


def call_in_lanes(connection: duckdb.DuckDBPyConnection, calls: Iterable[Call], num_lanes: int) -> None:
    """Makes the calls, begun in their order, at most `num_lanes` at once; temporary tables are a lane's own.

    Raises the first exception of any call, once the others have ended.
    """
    waiting = deque(calls)

    def work(lane: duckdb.DuckDBPyConnection) -> None:
        while True:
            try:
                call = waiting.popleft()
            except IndexError:
                return
            call(lane)

    with ThreadPoolExecutor(num_lanes) as pool, ExitStack() as stack:
        lanes = [stack.enter_context(another(connection)) for _ in range(num_lanes)]
        side_by_side(pool, [work] * num_lanes, lanes)
