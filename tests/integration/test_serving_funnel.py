"""The whole funnel over fakes: order, rules, fallbacks and reports."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from core.errors import StoreUnavailableError
from core.schema import HEADS
from events.journal import JournalEvent
from serving.funnel.request import FeedRequest
from serving.spec_file import load_overlay, load_spec, with_overlay
from tests.serving_fakes import (
    AS_OF,
    COLD_USER,
    NUM_USERS,
    FakeModel,
    FakeReader,
    make_parts,
    make_runtime,
    make_snapshot,
    make_spec,
    without,
)

SMALL = {"eligibility": {"min_pool": 5}}


@pytest.fixture
def runtime(tmp_path):
    runtime = make_runtime(tmp_path, make_spec(**SMALL))
    yield runtime
    runtime.close()


def ask(runtime, user_id=1, **fields):
    return runtime.funnel.serve(FeedRequest(user_id, AS_OF, **{"limit": 20, "request_id": 5, **fields}))


def test_slate_is_full_distinct_and_names_its_versions(runtime):
    slate = ask(runtime)
    assert len(slate) == 20
    assert len(set(slate.post_ids.tolist())) == 20
    assert slate.degraded == ()
    assert slate.spec_version == runtime.spec.version
    assert slate.model_versions == {"retrieval": "tower-1", "first_stage": "tower-1", "second_stage": "model-1"}
    assert [post.position for post in slate.posts] == list(range(20))
    assert all(post.sources for post in slate.posts)


def test_same_request_gives_the_same_slate(runtime):
    assert ask(runtime).post_ids.tolist() == ask(runtime).post_ids.tolist()


def test_score_is_the_value_model_over_the_models_probabilities(runtime):
    slate = ask(runtime)
    weights = runtime.spec.value_model.weights
    for place in range(len(slate)):
        why = slate.explanation(place)
        assert set(why.probabilities) == set(HEADS)
        expected = sum(weights[head] * p for head, p in why.probabilities.items())
        assert why.stage_scores["value"] == pytest.approx(expected)
        assert sum(why.value_contributions.values()) == pytest.approx(expected)
        assert {"blend", "first_stage", "value"} <= set(why.stage_scores)


def test_best_posts_come_first_up_to_the_rules(runtime):
    spec = make_spec(**SMALL, rerank={"creator_window": 0, "diversity": 0.0, "downrank_strength": 0.0})
    slate = runtime.funnel_for(spec).serve(FeedRequest(1, AS_OF, request_id=5))
    values = slate.candidates.scores["value"]
    assert np.all(np.diff(values) <= 1e-12)


def test_no_creator_comes_twice_within_the_window(runtime):
    creators = ask(runtime, limit=40).creator_ids.tolist()
    assert all(creators[i] not in creators[max(0, i - 2) : i] for i in range(len(creators)))


def test_every_stage_reports_what_it_kept_and_removed(runtime):
    reports = {report.name: report for report in ask(runtime).stages}
    assert {"user", "source.two_tower", "eligibility", "retrieval", "first_stage", "second_stage", "rerank"} <= set(
        reports
    )
    first = reports["first_stage"]
    assert first.num_out == min(runtime.spec.first_stage.keep, first.num_in)
    for report in reports.values():
        if report.name.startswith("source.") or report.name == "user":
            continue
        assert report.num_in - report.num_out == sum(report.removed.values()), report
    assert reports["eligibility"].removed


def test_seen_hidden_and_blocked_posts_never_come(runtime):
    catalogue = runtime.snapshot.catalogue
    for user_id in range(6):
        rows = ask(runtime, user_id, limit=100).candidates.rows
        assert not set(rows.tolist()) & set(range(20 * user_id, 20 * user_id + 10))
        assert 100 not in rows
        if user_id % 2 == 0:
            assert 3 not in catalogue.creator_ids[rows]


def test_a_hide_and_a_block_act_on_the_next_slate(runtime):
    first = ask(runtime)
    hidden, blocked = int(first.post_ids[0]), int(first.creator_ids[1])
    events = [
        JournalEvent("a", "hide", 1, AS_OF, AS_OF, post_id=hidden),
        JournalEvent("b", "block", 1, AS_OF, AS_OF, creator_id=blocked),
    ]
    runtime.journal.append(events)
    after = ask(runtime, limit=100)
    assert hidden not in after.post_ids
    assert blocked not in after.creator_ids
    other = ask(runtime, 4)
    assert len(other) == 20


def test_an_impression_in_the_journal_is_not_shown_again_until_it_is_old(runtime):
    shown = int(ask(runtime).post_ids[0])
    runtime.journal.append([JournalEvent("i", "impression", 1, AS_OF, AS_OF, post_id=shown, surface="explore")])
    assert shown not in ask(runtime, limit=100).post_ids
    later = FeedRequest(1, AS_OF + timedelta(days=8), limit=100, request_id=5)
    assert shown in runtime.funnel.serve(later).post_ids


def test_excluded_posts_do_not_come_and_the_creator_rule_reaches_over_the_page(runtime):
    first = ask(runtime)
    second = ask(
        runtime,
        exclude_post_ids=tuple(first.post_ids.tolist()),
        previous_creator_ids=tuple(first.creator_ids[-2:].tolist()),
    )
    assert not set(first.post_ids.tolist()) & set(second.post_ids.tolist())
    assert second.creator_ids[0] not in first.creator_ids[-2:]


def test_unknown_user_gets_a_cold_start_feed_and_no_error(runtime):
    slate = ask(runtime, COLD_USER, language="en", country="US")
    assert len(slate) == 20
    assert slate.degraded == ()
    assert {name for post in slate.posts for name in post.sources} <= {*runtime.spec.cold_start, "fallback"}
    languages = runtime.snapshot.catalogue.language_codes[slate.candidates.rows]
    assert set(languages.tolist()) == {runtime.snapshot.catalogue.language_code("en")}
    assert slate.explanation(0).probabilities


def test_without_features_the_stored_popularity_ranks_and_controls_still_act(tmp_path):
    snapshot = make_snapshot()
    reader = FakeReader(snapshot.catalogue)
    reader.is_down = True
    runtime = make_runtime(tmp_path, make_spec(**SMALL), make_parts(snapshot, reader))
    slate = ask(runtime)
    assert slate.degraded == ("features",)
    assert len(slate) == 20
    popularity = slate.candidates.scores["popularity"]
    assert popularity[0] > popularity[-1]
    assert not set(slate.candidates.rows.tolist()) & {*range(20, 30), 100}
    reader.is_down = False
    assert ask(runtime).degraded == ()
    runtime.close()


@pytest.mark.parametrize(
    ("missing", "degraded"),
    [
        (("second_stage",), ("second_stage",)),
        (("first_stage",), ("first_stage",)),
        (("tower", "search"), ("source:two_tower",)),
        (("tower", "search", "first_stage", "second_stage"), ("source:two_tower", "first_stage", "second_stage")),
    ],
)
def test_a_missing_part_is_named_and_the_feed_still_comes(tmp_path, missing, degraded):
    parts = without(make_parts(make_snapshot()), *missing)
    runtime = make_runtime(tmp_path, make_spec(**SMALL), parts)
    slate = ask(runtime)
    assert slate.degraded == degraded
    assert len(slate) == 20
    assert set(runtime.degraded()) == set(degraded)
    runtime.close()


def test_a_model_that_does_not_fit_the_features_degrades_instead_of_failing(tmp_path):
    model = FakeModel()
    model.is_broken = True
    parts = replace(make_parts(make_snapshot()), second_stage=model)
    runtime = make_runtime(tmp_path, make_spec(**SMALL), parts)
    slate = ask(runtime)
    assert slate.degraded == ("second_stage",)
    assert len(slate) == 20
    runtime.close()


def test_features_lost_between_the_user_and_the_posts_degrade_the_second_stage(tmp_path):
    class PostsDown(FakeReader):
        def read(self, entity, ids, views):
            if entity == "post":
                raise StoreUnavailableError("gone")
            return super().read(entity, ids, views)

    snapshot = make_snapshot()
    runtime = make_runtime(tmp_path, make_spec(**SMALL), make_parts(snapshot, PostsDown(snapshot.catalogue)))
    assert ask(runtime).degraded == ("second_stage",)
    runtime.close()


@pytest.mark.parametrize("name", ["random", "popularity", "item_to_item", "two_tower"])
def test_baselines_run_through_the_same_funnel_under_the_same_rules(runtime, name):
    spec = with_overlay(with_overlay(load_spec(), SMALL), load_overlay(name))
    slate = runtime.funnel_for(spec).serve(FeedRequest(1, AS_OF, limit=20, request_id=5))
    assert len(slate) == 20
    assert slate.degraded == ()
    assert slate.spec_version == spec.version != runtime.spec.version
    assert "second_stage" not in slate.model_versions
    assert not set(slate.candidates.rows.tolist()) & {*range(20, 30), 100}


def test_given_rankers_take_the_place_of_the_bundles(runtime):
    class Known:
        version = "truth"
        heads = HEADS

        def probabilities(self, state, rows):
            p = np.zeros((len(rows), len(HEADS)))
            p[:, 0] = (rows % 97) / 97
            return p

    everything = make_spec(
        **SMALL,
        **{"sources!": {"all": {"kind": "random", "quota": 100_000}}, "cold_start": [], "first_stage": None},
        blend={"max_candidates": 100_000},
        second_stage={"max_candidates": 100_000},
        rerank={"creator_window": 0, "diversity": 0.0, "downrank_strength": 0.0},
    )
    slate = runtime.funnel_for(everything, second_stage=Known()).serve(FeedRequest(1, AS_OF, request_id=5))
    assert slate.model_versions == {"second_stage": "truth"}
    assert slate.candidates.rows[0] % 97 >= 95


def test_a_users_features_are_read_each_time_and_a_posts_once(runtime):
    reader = runtime.parts.reader.stored
    ask(runtime)
    before = dict(reader.num_reads)
    ask(runtime)
    assert reader.num_reads["user"] == before["user"] + 1
    assert reader.num_reads["post"] == before["post"]
    assert runtime.funnel.features.post_counts.hit_rate > 0.4


def test_metrics_count_stages_and_degradation(runtime):
    ask(runtime)
    text = runtime.metrics.text().decode()
    assert 'vitrine_stage_seconds_count{stage="second_stage"} 1.0' in text
    assert 'vitrine_removed_candidates_total{reason="other_language",stage="eligibility"}' in text


def test_every_known_user_has_a_feed(runtime):
    for user_id in range(NUM_USERS):
        assert len(ask(runtime, user_id, limit=5)) == 5
