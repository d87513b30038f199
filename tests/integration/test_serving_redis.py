"""The funnel over the real feature store client and a real Redis that comes and goes."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from feature_repo.stores.embedded import ensure_redis, stop_redis
from serving.bootstrap import Runtime
from serving.funnel.request import FeedRequest
from serving.parts import open_reader
from tests.serving_fakes import AS_OF, COLD_USER, make_parts, make_runtime, make_settings, make_snapshot, make_spec

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Feast's imports


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    folder: Path = tmp_path_factory.mktemp("redis")
    settings = make_settings(folder)
    ensure_redis(settings.workspace, settings)
    snapshot = make_snapshot()
    parts = replace(make_parts(snapshot), reader=open_reader(settings.workspace))
    runtime = make_runtime(folder, make_spec(eligibility={"min_pool": 5}), parts)
    yield runtime
    runtime.close()
    stop_redis(settings.workspace)


def ask(runtime: Runtime, user_id: int = 1):
    return runtime.funnel.serve(FeedRequest(user_id, AS_OF, limit=20, language="en", request_id=3))


def test_an_empty_store_reads_as_nulls_and_serves_a_cold_start(runtime):
    slate = ask(runtime, COLD_USER)
    assert slate.degraded == ()
    assert len(slate) == 20
    assert slate.explanation(0).probabilities


def test_redis_that_stops_degrades_and_one_that_returns_recovers_by_itself(runtime):
    assert ask(runtime).degraded == ("user_features",)  # the store answers, but nothing was materialised
    stop_redis(runtime.workspace)
    for _ in range(3):
        slate = ask(runtime)
        assert slate.degraded == ("features",)
        assert len(slate) == 20
        assert not set(slate.candidates.rows.tolist()) & {*range(20, 30), 100}
    ensure_redis(runtime.workspace, runtime.settings)
    assert ask(runtime).degraded == ("user_features",)
