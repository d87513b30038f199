"""What processes of one server share: sums of metrics against one process that did it all, and rates among forks."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.crew import gathered
from serving.funnel.request import StageReport
from serving.metrics import Metrics
from serving.rates import TokenBuckets
from serving.shared_metrics import SharedMetrics, fold
from serving.shared_rates import SharedBuckets


@pytest.fixture
def crew():
    with gathered() as crew:
        yield crew
    assert not crew.folder.exists()


def work(rng, metrics, steps):
    """Some of everything that is counted."""
    for _ in range(steps):
        metrics.http("/feed", "GET", int(rng.choice([200, 503])), float(rng.exponential(0.02)))
        metrics.stage(StageReport("rerank", 9, int(rng.integers(3)), float(rng.exponential(0.01)), {"no_room": 2}))
        metrics.cache("slates", bool(rng.integers(2)))
        metrics.events(3, 1, 0)


def samples(text):
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        if not family.name.endswith("_created"):
            found |= {(s.name, *sorted(s.labels.items())): s.value for s in family.samples}
    return found


def write(folder, process, metrics):
    (folder / f"{process}.prom").write_bytes(metrics.text())


def test_sums_over_processes_are_those_of_one_that_did_it_all(crew):
    parts, whole = [Metrics() for _ in range(3)], Metrics()
    for seed, part in enumerate(parts):
        part.watch_cache("slates", part.caches["slates"])
        work(np.random.default_rng(seed), part, 40)
        work(np.random.default_rng(seed), whole, 40)
        write(crew.folder, 100 + seed, part)
    whole.watch_cache("slates", whole.caches["slates"])
    parts[1].part_missing("second_stage", True)
    whole.part_missing("second_stage", True)
    work(np.random.default_rng(9), parts[0], 5)
    work(np.random.default_rng(9), whole, 5)
    write(crew.folder, 101, parts[1])
    (crew.folder / "100.prom").unlink()
    shared = SharedMetrics(crew.folder, parts[0].text)  # what the scraped process counted is there at once
    assert samples(shared.text()) == pytest.approx(samples(whole.text()))


def test_what_an_ended_process_counted_stays_and_its_gauges_go(crew):
    own, other = Metrics(), Metrics()
    work(np.random.default_rng(1), other, 30)
    shared = SharedMetrics(crew.folder, own.text)
    with other.in_flight():
        write(crew.folder, 7, other)
        assert samples(shared.text())["vitrine_http_in_flight",] == 1
    before = samples(shared.text())
    for process in (7, 8):  # the other ended before it wrote anything
        fold(crew.folder, process)
    after = samples(shared.text())
    assert after["vitrine_http_in_flight",] == 0
    assert {key: value for key, value in after.items() if key != ("vitrine_http_in_flight",)} == {
        key: value for key, value in before.items() if key != ("vitrine_http_in_flight",)
    }
    assert sorted(path.name for path in crew.folder.glob("*.prom")) == [f"{os.getpid()}.prom", "ended.prom"]


def test_a_process_writes_by_itself_and_once_more_at_its_end(crew):
    own = Metrics()
    shared = SharedMetrics(crew.folder, own.text, period_seconds=0.01)
    shared.start()
    file = crew.folder / f"{os.getpid()}.prom"
    while not file.exists():
        time.sleep(0.01)
    own.events(1, 0, 0)
    shared.stop()
    assert samples(file.read_bytes())["vitrine_events_total", ("outcome", "accepted")] == 1


def test_shared_buckets_give_what_those_of_one_process_give(crew):
    rng, now = np.random.default_rng(3), [50.0]
    shared, own = SharedBuckets(crew.folder, lambda: now[0]), TokenBuckets(lambda: now[0])
    again = SharedBuckets(crew.folder, lambda: now[0])  # as another process would open them
    for step in range(2_000):
        now[0] += float(rng.exponential(0.05))
        name, rate = [("a", 20.0), ("b", 0.5), ("c", 0.0)][rng.integers(3)]
        assert (shared if step % 2 else again).take(name, rate) == pytest.approx(own.take(name, rate))


def test_processes_together_get_no_more_than_one_bucket_holds(crew):
    rate, began = 200.0, time.monotonic()
    pids = []
    for number in range(4):
        pid = os.fork()
        if pid == 0:
            buckets, taken = SharedBuckets(crew.folder, time.monotonic), 0
            while time.monotonic() - began < 1.0:
                taken += buckets.take("key", rate) == 0.0
            (crew.folder / f"taken-{number}").write_text(str(taken))
            os._exit(0)
        pids.append(pid)
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in pids)
    elapsed = time.monotonic() - began
    taken = sum(int(Path(crew.folder / f"taken-{number}").read_text()) for number in range(4))
    assert rate < taken <= rate * (1 + elapsed) + 1
