"""Slow, failing and hanging parts under the spec's deadlines; and quotas and weights of sources."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from serving.funnel.request import FeedRequest
from serving.funnel.source_pool import SourcePool
from tests.serving_fakes import AS_OF, ExactSearch, FakeReader, make_parts, make_runtime, make_snapshot, make_spec

SMALL = {"eligibility": {"min_pool": 5}}
PATIENT = {
    "deadlines": {"request_ms": 60_000, "user_ms": 9_000, "retrieval_ms": 10_000, "second_stage_ms": 9_000},
    "sources": {"two_tower": {"deadline_ms": 10_000}},
}
"""Deadlines that a busy machine keeps; tests shorten the one they are about."""
LONG = 30.0


def spec_with(**overlay):
    merged = {**SMALL, **PATIENT, **overlay}
    merged["sources"] = {**PATIENT["sources"], **overlay.get("sources", {})}
    merged["deadlines"] = {**PATIENT["deadlines"], **overlay.get("deadlines", {})}
    return make_spec(**merged)


class GatedSearch(ExactSearch):
    """Answers when the gate is open."""

    def __init__(self, catalogue):
        super().__init__(catalogue)
        self.gate = threading.Event()
        self.num_calls = 0

    def search(self, vector_D, k, eligible):
        self.num_calls += 1
        self.gate.wait(LONG)
        return super().search(vector_D, k, eligible)


@pytest.fixture
def search():
    search = GatedSearch(make_snapshot().catalogue)
    yield search
    search.gate.set()


@pytest.fixture
def opened(tmp_path):
    runtimes = []

    def open_one(spec, pool="shared", **parts):
        made = replace(make_parts(make_snapshot()), **parts)
        runtimes.append(make_runtime(tmp_path, spec, made, pool=SourcePool(2) if pool else None))
        return runtimes[-1]

    yield open_one
    for runtime in runtimes:
        runtime.close()


def ask(runtime, user_id=1, **fields):
    return runtime.funnel.rank(FeedRequest(user_id, AS_OF, **{"request_id": 5, **fields}))


def report(slate, name):
    return next(report for report in slate.stages if report.name == name)


def test_a_late_source_is_dropped_and_named_and_the_slate_is_whole(opened, search):
    runtime = opened(spec_with(sources={"two_tower": {"deadline_ms": 20}}), search=search)
    slate = ask(runtime)
    assert slate.degraded == ("source:two_tower",)
    assert len(slate) == runtime.spec.rerank.slate_size
    assert "two_tower" not in {name for post in slate.posts for name in post.sources}
    assert report(slate, "source.two_tower").notes == ("later than 20 ms",)
    assert report(slate, "source.two_tower").is_empty
    assert 'vitrine_degraded_total{part="source:two_tower"} 1.0' in runtime.metrics.text().decode()


def test_what_a_late_source_brings_in_the_end_reaches_no_slate(opened, search):
    runtime = opened(spec_with(sources={"two_tower": {"deadline_ms": 20}}), search=search)
    without = ask(runtime)
    before = without.candidates.source_bits.copy(), without.degraded
    search.gate.set()
    time.sleep(0.05)
    assert np.array_equal(without.candidates.source_bits, before[0])
    assert without.degraded == before[1]


def test_a_source_that_hangs_is_asked_no_more_than_its_threads_until_it_comes_back(opened, search):
    runtime = opened(spec_with(sources={"two_tower": {"deadline_ms": 20}}), search=search)
    for _ in range(10):
        assert ask(runtime).degraded == ("source:two_tower",)
    assert search.num_calls == 2
    assert report(ask(runtime), "source.two_tower").notes == ("earlier calls still hang",)
    search.gate.set()
    for _ in range(500):
        if ask(runtime).degraded == ():
            return
        time.sleep(0.01)
    raise AssertionError("the source was never asked again")


def test_without_a_pool_a_slow_source_is_waited_for(opened, search):
    runtime = opened(spec_with(sources={"two_tower": {"deadline_ms": 20}}), pool=None, search=search)
    threading.Timer(0.1, search.gate.set).start()
    assert ask(runtime).degraded == ()


def test_on_time_a_source_on_a_thread_brings_what_it_brings_without_one(opened):
    side_by_side, in_turn = opened(spec_with()), opened(spec_with(), pool=None)
    for user_id in range(4):
        one, other = ask(side_by_side, user_id), ask(in_turn, user_id)
        assert one.degraded == other.degraded == ()
        assert one.post_ids.tolist() == other.post_ids.tolist()
        assert one.candidates.source_bits.tolist() == other.candidates.source_bits.tolist()


@pytest.mark.parametrize("pool", ["shared", None])
def test_a_source_with_a_fault_costs_the_feed_only_that_source(opened, pool, capsys):
    class Faulty:
        def search(self, vector_D, k, eligible):
            raise IndexError("off by one")

    slate = ask(opened(spec_with(), pool=pool, search=Faulty()))
    assert slate.degraded == ("source:two_tower",)
    assert report(slate, "source.two_tower").notes == ("failed with IndexError",)
    assert "off by one" in "".join(capsys.readouterr())


class Slow(FakeReader):
    """Users take their time."""

    def __init__(self, catalogue, seconds):
        super().__init__(catalogue)
        self.seconds = seconds

    def read(self, entity, ids, views):
        if entity == "user":
            time.sleep(self.seconds)
        return super().read(entity, ids, views)


def slow_reader(seconds):
    return Slow(make_snapshot().catalogue, seconds)


def test_with_less_time_left_the_second_stage_scores_fewer_and_the_rest_stand_behind(opened):
    # The user takes 500 ms, of which the second stage loses nearly all of its 10 s: about 6 of 120 candidates.
    deadlines = {
        "request_ms": 10_020, "user_ms": 10, "retrieval_ms": 1, "first_stage_ms": 1, "second_stage_ms": 9_990,
        "rerank_ms": 10,
    }  # fmt: skip
    tight = spec_with(deadlines=deadlines, sources={"two_tower": None}, rerank={"slate_size": 120})
    runtime = opened(tight, reader=slow_reader(0.5))
    slate = ask(runtime)
    assert slate.degraded == ("second_stage_shortened",)
    notes = report(slate, "second_stage").notes
    assert notes[0].endswith(f"of {report(slate, 'second_stage').num_out} for want of time")
    has_value = np.isfinite(slate.candidates.scores["value"])
    assert 0 < has_value.sum() < len(slate) == runtime.spec.rerank.slate_size
    assert np.all(np.isfinite(slate.scores))
    unscored = int(np.flatnonzero(~has_value)[0])
    assert slate.explanation(unscored).probabilities == {}
    assert report(slate, "user").notes[0].startswith("overran its 10 ms")
    full = ask(opened(tight, pool=None, reader=slow_reader(0)))
    assert full.degraded == ()
    assert np.isfinite(full.candidates.scores["value"]).all()


def test_with_no_time_left_the_rankers_are_skipped_and_the_rules_still_hold(opened):
    deadlines = {"request_ms": 100, "user_ms": 15, "retrieval_ms": 30, "second_stage_ms": 40}
    runtime = opened(spec_with(deadlines=deadlines, sources={"two_tower": None}), reader=slow_reader(0.2))
    slate = ask(runtime)
    assert slate.degraded == ("first_stage", "second_stage")
    assert "no time is left for it" in report(slate, "first_stage").notes[0]
    creators = slate.creator_ids.tolist()
    assert all(creators[i] not in creators[max(0, i - 2) : i] for i in range(40))
    assert not set(slate.candidates.rows.tolist()) & {*range(20, 30), 100}


def test_sources_get_no_longer_than_retrieval_has_left(opened, search):
    deadlines = {"request_ms": 100, "user_ms": 15, "retrieval_ms": 30, "second_stage_ms": 40}
    late = spec_with(deadlines=deadlines, sources={"two_tower": {"deadline_ms": 30}})
    slate = ask(opened(late, search=search, reader=slow_reader(0.2)))
    assert slate.degraded[0] == "source:two_tower"
    assert report(slate, "source.two_tower").notes == ("later than 0 ms",)


def test_no_source_brings_more_than_its_quota_and_every_slate_counts_what_it_removed(opened):
    runtime = opened(spec_with(sources={"trending": {"quota": 7}, "history": {"quota": 3}}))
    slate = ask(runtime)
    assert report(slate, "source.trending").num_out == 7
    assert report(slate, "source.history").num_out == 3
    for one in slate.stages:
        assert one.num_in - one.num_out == sum(one.removed.values()), one
    assert report(slate, "source.popular_country").removed["other_language"] > 0


def test_a_heavier_source_moves_its_posts_up(opened):
    def mean_rank(weight):
        everything = {"first_stage": None, "second_stage": None, "rerank": {"creator_window": 0, "diversity": 0.0}}
        spec = spec_with(**everything, sources={"fresh": {"weight": weight, "quota": 100}})
        slate = ask(opened(spec))
        fresh = slate.source_names.index("fresh")
        is_fresh = slate.candidates.source_bits >> fresh & 1 == 1
        assert is_fresh.any()
        return float(np.flatnonzero(is_fresh).mean())

    assert mean_rank(100.0) < mean_rank(1.0) < mean_rank(0.05)


def test_a_source_of_no_weight_moves_nothing_that_others_brought(opened):
    spec = spec_with(first_stage=None, second_stage=None, sources={"fresh": {"weight": 0.0}})
    with_it, without = ask(opened(spec)), ask(opened(spec_with(
        first_stage=None, second_stage=None, sources={"fresh": None}, cold_start=[]
    )))  # fmt: skip
    names = with_it.source_names
    others = sum(1 << i for i, name in enumerate(names) if name != "fresh")
    brought = with_it.candidates.source_bits & others > 0
    assert with_it.post_ids[brought].tolist() == without.post_ids[: brought.sum()].tolist()
