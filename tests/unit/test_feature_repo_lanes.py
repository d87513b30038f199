"""Calls in lanes: all are made, at most so many at once, and one failure ends them."""

import threading
from collections.abc import Iterator
from functools import partial

import duckdb
import pytest

from feature_repo.building.lanes import Call, call_in_lanes


@pytest.fixture
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def test_every_call_is_made_and_lanes_share_tables_but_no_temporary_ones(database: duckdb.DuckDBPyConnection) -> None:
    database.execute("CREATE TABLE made (number INTEGER)")

    def call(number: int, lane: duckdb.DuckDBPyConnection) -> None:
        lane.execute(f"CREATE OR REPLACE TEMP TABLE own AS SELECT {number} AS number")
        lane.execute("INSERT INTO made FROM own")

    call_in_lanes(database, [partial(call, number) for number in range(7)], num_lanes=2)
    assert sorted(database.execute("FROM made").fetchall()) == [(number,) for number in range(7)]


def test_two_calls_run_at_once(database: duckdb.DuckDBPyConnection) -> None:
    both = threading.Barrier(2)
    calls: list[Call] = [lambda lane: both.wait(10) and None for _ in range(2)]
    call_in_lanes(database, calls, num_lanes=2)
    assert not both.broken


def test_a_failure_ends_what_runs_and_is_raised(database: duckdb.DuckDBPyConnection) -> None:
    def endless(lane: duckdb.DuckDBPyConnection) -> None:
        lane.execute("SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE hash(a.range, b.range) = 0")

    def fail(lane: duckdb.DuckDBPyConnection) -> None:
        raise ValueError("no such hour")

    with pytest.raises(ValueError, match="no such hour"):
        call_in_lanes(database, [endless, fail], num_lanes=2)
