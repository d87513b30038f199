"""The table that the first stage learns from, and search in a real index."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from core.errors import ConfigError, MissingStageError, StoreUnavailableError
from core.held_out import is_held_out
from core.schema import CANDIDATES, REQUESTS
from events.log import replace_all
from models.ann import load_index, write_index
from serving.draw_candidates import DrawPlan, draw, draw_spec
from serving.funnel.eligible import EligiblePosts, SharedCodes
from serving.spec_file import load_spec
from serving.vector_search import IndexSearch
from tests.serving_fakes import (
    AS_OF,
    FakeReader,
    make_catalogue,
    make_parts,
    make_runtime,
    make_snapshot,
    make_spec,
    without,
)

NONE = np.empty(0, dtype=np.int64)


@pytest.fixture
def runtime(tmp_path):
    runtime = make_runtime(tmp_path, make_spec())
    yield runtime
    runtime.close()


def read(runtime):
    folder = runtime.workspace.log / "candidates"
    return ds.dataset(folder, schema=CANDIDATES.arrow, format="parquet").to_table()


def plan_of(num_requests, fewest=50, most=50):
    return DrawPlan(num_requests, 0, fewest, most)


def write_requests(runtime, count, num_users=10):
    rows = [
        {
            "request_id": 1000 + i, "user_id": i % num_users, "session_id": i, "surface": "explore", "country": "US",
            "language": "en", "device": "web", "spec_version": "log", "event_at": AS_OF - timedelta(hours=i % 40 + 1),
            "known_at": AS_OF - timedelta(hours=i % 40 + 1),
        }
        for i in range(count)
    ]  # fmt: skip
    replace_all(runtime.workspace.log, "requests", pa.Table.from_pylist(rows, schema=REQUESTS.arrow))


def test_candidates_of_sampled_requests_are_ranked_in_full(runtime):
    write_requests(runtime, 50)
    report = draw(runtime.settings, plan_of(6, 40, 320), seed=1, runtime=runtime)
    table = read(runtime).to_pandas()
    assert report.num_requests == table["request_id"].nunique() == 6
    assert report.num_rows == len(table)
    assert sorted(table.groupby("request_id").size()) == [40, 40, 80, 80, 160, 320]
    for _, rows in table.groupby("request_id"):
        rows = rows.sort_values("rank")
        assert rows["rank"].tolist() == list(range(len(rows)))
        assert (np.diff(rows["score"]) <= 0).all()
        assert rows["num_candidates"].unique().tolist() == [len(rows)]
        assert rows["post_id"].is_unique
    assert (table["event_at"] == AS_OF).all()
    assert all(len(sources) for sources in table["sources"])


def test_those_that_judge_are_held_out_users_of_the_test_day_and_the_others_teach(runtime):
    write_requests(runtime, 400, num_users=200)
    report = draw(runtime.settings, DrawPlan(40, 4, 20, 60), seed=1, runtime=runtime)
    table = read(runtime).to_pandas().groupby("request_id").agg(user=("user_id", "first"), rows=("post_id", "size"))
    logged = ds.dataset(runtime.workspace.log / "requests", format="parquet").to_table().to_pandas()
    table = table.join(logged.set_index("request_id")["event_at"])
    is_test = is_held_out(table["user"].to_numpy())
    assert (report.num_requests, report.num_tests) == (int((~is_test).sum()), int(is_test.sum())) == (40, 4)
    assert table["user"].is_unique
    # The last event is on the full hour, which still belongs to the day behind it.
    assert ((table["event_at"] >= AS_OF - timedelta(hours=23)) == is_test).all()
    assert sorted(table["rows"][is_test]) == [20, 20, 60, 60]


def test_an_impossible_plan_is_refused():
    with pytest.raises(ConfigError, match="from 30 to 20"):
        DrawPlan(fewest=30, most=20)


def test_drawing_again_replaces_the_table_and_a_seed_repeats_it(runtime):
    write_requests(runtime, 50)
    draw(runtime.settings, plan_of(8), seed=1, runtime=runtime)
    first = read(runtime).sort_by([("request_id", "ascending"), ("rank", "ascending")])
    draw(runtime.settings, plan_of(8), seed=1, runtime=runtime)
    second = read(runtime).sort_by([("request_id", "ascending"), ("rank", "ascending")])
    assert first.equals(second)
    draw(runtime.settings, plan_of(8), seed=2, runtime=runtime)
    assert set(read(runtime)["request_id"].to_pylist()) != set(first["request_id"].to_pylist())


def test_users_stand_in_where_the_log_has_no_requests(runtime):
    assert draw(runtime.settings, plan_of(5, 20, 20), seed=1, runtime=runtime).num_requests == 5
    assert set(read(runtime)["user_id"].to_pylist()) <= set(range(30))


def test_features_are_read_in_bulk(runtime):
    write_requests(runtime, 50)
    draw(runtime.settings, plan_of(20), seed=1, runtime=runtime)
    reads = runtime.parts.reader.stored.num_reads
    assert reads["user"] == 1
    assert reads["post"] == 1


def test_nothing_is_written_without_the_store_or_the_model(tmp_path):
    snapshot = make_snapshot()
    reader = FakeReader(snapshot.catalogue)
    reader.is_down = True
    down = make_runtime(tmp_path / "down", make_spec(), make_parts(snapshot, reader))
    with pytest.raises(StoreUnavailableError):
        draw(down.settings, plan_of(5, 20, 20), seed=1, runtime=down)
    untrained = make_runtime(tmp_path / "untrained", make_spec(), without(make_parts(snapshot), "second_stage"))
    with pytest.raises(MissingStageError, match="second-stage"):
        draw(untrained.settings, plan_of(5, 20, 20), seed=1, runtime=untrained)
    blind = make_runtime(tmp_path / "blind", make_spec(), without(make_parts(snapshot), "tower", "search"))
    with pytest.raises(StoreUnavailableError, match="two_tower"):
        draw(blind.settings, plan_of(5, 20, 20), seed=1, runtime=blind)
    for runtime in (down, untrained, blind):
        assert not (runtime.workspace.log / "candidates").exists()
        runtime.close()


def test_the_wide_spec_does_not_cut():
    spec = draw_spec(load_spec(), 1500)
    assert spec.first_stage is None
    assert spec.blend.max_candidates == spec.second_stage.max_candidates == spec.rerank.slate_size == 1500


def test_search_finds_the_best_eligible_posts_of_a_rare_language(tmp_path):
    catalogue = make_catalogue(3000)
    vectors = catalogue.content
    manifest = write_index(tmp_path, catalogue.post_ids, vectors, "bundle-1", AS_OF)
    search = IndexSearch(load_index(tmp_path / manifest.index_id, "bundle-1"), catalogue)
    is_eligible = catalogue.language_codes == 0
    shared = SharedCodes((~is_eligible).astype(np.uint8))
    query = np.random.default_rng(3).standard_normal(vectors.shape[1]).astype(np.float32)
    rows, scores = search.search(query, 40, EligiblePosts(shared, NONE))
    truth = np.where(is_eligible, vectors @ query, -np.inf)
    assert np.all(is_eligible[rows])
    assert np.all(np.diff(scores) <= 0)
    assert rows.tolist() == np.argsort(-truth)[:40].tolist()
    assert len(search.search(query, 1000, EligiblePosts(shared, NONE))[0]) == int(is_eligible.sum())


@pytest.mark.parametrize("exact_below", [100, 10_000])
def test_a_requests_own_exclusions_leave_its_search_and_no_other(tmp_path, exact_below):
    catalogue = make_catalogue(3000)
    manifest = write_index(tmp_path, catalogue.post_ids, catalogue.content, "bundle-1", AS_OF, exact_below)
    search = IndexSearch(load_index(tmp_path / manifest.index_id, "bundle-1"), catalogue)
    shared = SharedCodes((catalogue.language_codes != 0).astype(np.uint8))
    everything, _ = search.search(catalogue.content[0], 3000, EligiblePosts(shared, NONE))
    assert sorted(everything.tolist()) == np.flatnonzero(shared.codes == 0).tolist()
    # Neighbours share a byte of the mask; one is given twice, and some were not eligible anyway.
    excluded = np.concatenate([np.arange(0, 640), np.arange(10, 12), everything[-5:]])
    found, _ = search.search(catalogue.content[0], 3000, EligiblePosts(shared, excluded))
    assert set(found.tolist()) == set(everything.tolist()) - set(excluded.tolist())
    assert search.search(catalogue.content[0], 3000, EligiblePosts(shared, NONE))[0].tolist() == everything.tolist()


def test_search_leaves_out_posts_that_the_catalogue_does_not_know(tmp_path):
    catalogue = make_catalogue(200)
    strangers = replace(catalogue, post_ids=catalogue.post_ids + 100)
    manifest = write_index(tmp_path, catalogue.post_ids, catalogue.content, "bundle-1", AS_OF)
    search = IndexSearch(load_index(tmp_path / manifest.index_id, "bundle-1"), strangers)
    rows, _ = search.search(catalogue.content[0], 200, EligiblePosts(SharedCodes(np.zeros(200, dtype=np.uint8)), NONE))
    assert 0 < len(rows) < 200
    known = set(catalogue.post_ids.tolist())
    assert all(int(i) in known for i in strangers.post_ids[rows])
    nothing, _ = search.search(catalogue.content[0], 20, EligiblePosts(SharedCodes(np.ones(200, dtype=np.uint8)), NONE))
    assert len(nothing) == 0
