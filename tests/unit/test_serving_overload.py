"""Turns under overload: who goes, who waits, who is excess."""

import asyncio

import pytest

from serving.metrics import Metrics
from serving.middleware import CallLimit
from serving.overload import Admission
from serving.prefetch import Prefetcher
from serving.spec_operation import OverloadSpec


def admission(**limits):
    return Admission(OverloadSpec(**{"max_in_flight": 2, "max_queue": 1, "max_wait_ms": 20} | limits))


def test_beyond_those_in_flight_one_waits_and_the_next_is_excess_at_once():
    async def play():
        gate = admission(max_wait_ms=5_000)
        assert [await gate.admit(), await gate.admit()] == [True, True]
        waiting = asyncio.create_task(gate.admit())
        await asyncio.sleep(0)
        assert gate.num_waiting == 1
        assert await gate.admit() is False
        gate.leave()
        assert await waiting is True
        assert gate.num_in_flight == 2
        gate.leave()
        gate.leave()
        assert gate.num_in_flight == 0
        assert await gate.admit() is True

    asyncio.run(play())


def test_who_waits_too_long_is_excess_and_leaves_no_trace():
    async def play():
        gate = admission()
        await gate.admit()
        await gate.admit()
        assert await gate.admit() is False
        assert gate.num_waiting == 0
        gate.leave()
        assert await gate.admit() is True
        assert gate.num_in_flight == 2

    asyncio.run(play())


def test_a_burst_may_wait_and_lasting_excess_may_not():
    async def play():
        gate = admission(max_wait_ms=10_000, busy_wait_ms=1)
        await gate.admit()
        await gate.admit()
        first = asyncio.create_task(gate.admit())
        await asyncio.sleep(0.2)
        assert not first.done()
        await asyncio.sleep(1.0)  # no turn was free all the while
        gate.leave()
        assert await first is True
        assert await asyncio.wait_for(gate.admit(), 5) is False
        gate.leave()
        await asyncio.sleep(0.5)  # one was
        await gate.admit()
        second = asyncio.create_task(gate.admit())
        await asyncio.sleep(0.2)
        assert not second.done()
        gate.leave()
        assert await second is True

    asyncio.run(play())


def test_calls_beyond_the_most_get_a_503_that_says_when_to_come_back_and_the_others_go_on():
    async def play():
        let_go, sent = asyncio.Event(), list[dict]()

        async def app(scope, receive, send):
            if scope["path"] != "/healthz":
                await let_go.wait()

        async def send(message):
            sent.append(message)

        limit = CallLimit(app, 1, Metrics())
        first = asyncio.create_task(limit({"type": "http", "path": "/feed"}, None, send))
        await asyncio.sleep(0)
        await limit({"type": "http", "path": "/feed"}, None, send)
        assert sent[0]["status"] == 503
        assert (b"retry-after", b"1") in sent[0]["headers"]
        await asyncio.wait_for(limit({"type": "http", "path": "/healthz"}, None, send), 5)
        let_go.set()
        await first
        sent.clear()
        await limit({"type": "http", "path": "/feed"}, None, send)
        assert sent == []

    asyncio.run(play())


def test_a_client_that_goes_away_while_waiting_takes_no_turn_with_it():
    async def play():
        gate = admission(max_wait_ms=5_000)
        await gate.admit()
        await gate.admit()
        for handed_over in (False, True):
            waiting = asyncio.create_task(gate.admit())
            await asyncio.sleep(0)
            if handed_over:
                gate.leave()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert gate.num_waiting == 0
        assert gate.num_in_flight == 1

    asyncio.run(play())


@pytest.mark.parametrize("seed", range(5))
def test_never_more_in_flight_than_allowed_and_none_lost_in_a_storm(seed):
    import random

    async def play():
        rng, gate, busy, most, outcomes = random.Random(seed), admission(max_queue=5, max_wait_ms=3), 0, 0, []

        async def call():
            nonlocal busy, most
            await asyncio.sleep(rng.random() * 0.02)
            is_in = await gate.admit()
            outcomes.append(is_in)
            if is_in:
                busy += 1
                most = max(most, busy)
                await asyncio.sleep(rng.random() * 0.004)
                busy -= 1
                gate.leave()

        await asyncio.gather(*(call() for _ in range(200)))
        assert most <= 2
        assert len(outcomes) == 200
        assert {True, False} == set(outcomes)
        assert (gate.num_in_flight, gate.num_waiting) == (0, 0)

    asyncio.run(play())


def test_a_prefetcher_takes_no_more_than_it_has_room_for_and_outlives_a_failing_job():
    import threading

    release, done = threading.Event(), []
    prefetcher = Prefetcher(max_waiting=2)
    assert prefetcher.submit(lambda: (release.wait(5), 1 / 0))
    assert prefetcher.submit(lambda: done.append(1))
    assert prefetcher.submit(lambda: done.append(2)) is False
    release.set()
    prefetcher.close()
    assert done in ([], [1])  # close drops what had not begun
    assert prefetcher.submit(lambda: None) is False
