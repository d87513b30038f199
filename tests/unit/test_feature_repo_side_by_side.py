"""Queries side by side: results in order, one failure or interrupt ends them all."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import duckdb
import pytest

from feature_repo.stores.duckdb_engine import another
from feature_repo.stores.side_by_side import side_by_side

ENDLESS = "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE hash(a.range, b.range) = 0"


@pytest.fixture
def connections() -> Iterator[list[duckdb.DuckDBPyConnection]]:
    with ExitStack() as stack:
        database = stack.enter_context(duckdb.connect())
        yield [stack.enter_context(another(database)) for _ in range(5)]


def run(
    connections: list[duckdb.DuckDBPyConnection], calls: list[Callable[[duckdb.DuckDBPyConnection], int]]
) -> list[int]:
    with ThreadPoolExecutor(2) as pool:
        return side_by_side(pool, calls, connections)


def never_ends(connection: duckdb.DuckDBPyConnection) -> int:
    connection.execute(ENDLESS)
    return -1


def test_results_come_in_the_order_of_the_calls(connections: list[duckdb.DuckDBPyConnection]) -> None:
    def call(number: int) -> Callable[[duckdb.DuckDBPyConnection], int]:
        def answer(connection: duckdb.DuckDBPyConnection) -> int:
            time.sleep(0.02 * (5 - number))
            return int(connection.execute(f"SELECT {number}").fetchall()[0][0])

        return answer

    assert run(connections, [call(n) for n in range(5)]) == [0, 1, 2, 3, 4]


def test_the_first_failure_is_raised_and_ends_the_others(connections: list[duckdb.DuckDBPyConnection]) -> None:
    started = []

    def fails(connection: duckdb.DuckDBPyConnection) -> int:
        time.sleep(0.1)
        connection.execute("SELECT * FROM nowhere")
        return -1

    def notes(_: duckdb.DuckDBPyConnection) -> int:
        started.append(1)
        return -1

    with pytest.raises(duckdb.CatalogException, match="nowhere"):
        run(connections, [never_ends, fails, never_ends, never_ends, notes])
    assert not started


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises, also where the tests were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_every_call(connections: list[duckdb.DuckDBPyConnection]) -> None:
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run(connections, [never_ends] * 5)
    timer.join()
