"""Sources on threads: deadlines, what becomes of late calls, and how few threads a source that hangs can hold."""

import threading

import pytest

from core.errors import DeadlineError, StoreUnavailableError
from serving.funnel.source_pool import SourcePool
from tests.waiting import soon

LONG = 30.0


@pytest.fixture
def gate():
    """Holds calls until it is opened; it is at the end."""
    gate = threading.Event()
    yield gate
    gate.set()


def hang(pool, gate, name="slow"):
    """Begins a call that hangs, and gives it up."""
    call = pool.begin(name, lambda: gate.wait(LONG))
    with pytest.raises(DeadlineError, match="later than 20 ms"):
        call.result(0.02)


def test_a_call_gives_its_value_and_the_time_it_ran():
    outcome = SourcePool().begin("fast", lambda: 7).result(LONG)
    assert outcome.value == 7
    assert 0 <= outcome.seconds < LONG


def test_calls_of_different_sources_run_side_by_side():
    both = threading.Barrier(2, timeout=LONG)
    pool = SourcePool(width=1)
    calls = [pool.begin(name, both.wait) for name in ("a", "b")]
    assert {call.result(LONG).value for call in calls} == {0, 1}


@pytest.mark.parametrize("error", [StoreUnavailableError("gone"), TimeoutError("the store's own")])
def test_what_a_call_raises_passes_through(error):
    def fail():
        raise error

    with pytest.raises(type(error), match=str(error)):
        SourcePool().begin("broken", fail).result(LONG)


def test_a_source_that_hangs_is_refused_at_once_and_takes_no_thread_of_another(gate):
    pool = SourcePool(width=2)
    before = threading.active_count()
    for _ in range(2):
        hang(pool, gate)
    for _ in range(50):
        with pytest.raises(DeadlineError, match="still hang"):
            pool.begin("slow", lambda: None)
    assert threading.active_count() - before == 2
    assert pool.begin("fast", lambda: 1).result(LONG).value == 1


def test_a_source_that_comes_back_is_asked_again(gate):
    pool = SourcePool(width=1)
    hang(pool, gate)
    gate.set()

    def answers():
        try:
            return pool.begin("slow", lambda: 5).result(LONG).value == 5
        except DeadlineError:
            return False

    assert soon(answers)


def test_a_call_that_was_given_up_before_it_began_never_runs(gate):
    pool, ran = SourcePool(width=1), []
    first = pool.begin("slow", lambda: gate.wait(LONG))
    waiting = pool.begin("slow", lambda: ran.append("waiting"))
    with pytest.raises(DeadlineError):
        waiting.result(0.01)
    gate.set()
    first.result(LONG)
    pool.begin("slow", lambda: ran.append("next")).result(LONG)
    assert ran == ["next"]


def test_threads_do_not_keep_the_process_from_ending(gate):
    pool = SourcePool(width=1)
    hang(pool, gate, "never-back")
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("source-never-back")]
    assert [thread.daemon for thread in threads] == [True]
