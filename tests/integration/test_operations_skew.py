"""Skew on a small world with real Feast, DuckDB and Redis: none when clean, each planted kind found with its cause."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from core.clock import FrozenClock
from core.settings import Settings
from events.journal import Journal
from events.served import ServedLog
from events.synthetic.generate import generate
from feature_repo.build import build_features
from feature_repo.catalog import FIELDS, VIEWS
from feature_repo.materialize import materialize
from feature_repo.store import apply_definitions, open_feature_store
from feature_repo.stores.embedded import ensure_redis, stop_redis
from operations import skew, skew_run
from operations.__main__ import app
from operations.skew import OTHER_DATA, audit
from operations.skew_comparison import NO_PAGE
from operations.skew_outcome import Cause
from serving.bootstrap import Runtime, build_funnels
from serving.feature_log import FeatureLog, MaterializedText
from serving.feature_log_files import read_feature_log, write_feature_log
from serving.funnel.request import FeedRequest
from serving.funnels import ServingFunnels, fingerprint
from serving.metrics import Metrics
from serving.parts import load_parts
from serving.snapshot import load_snapshot, save_snapshot
from serving.snapshot_build.build import build_snapshot
from serving.spec_file import load_spec, with_overlay
from tests.serving_fakes import FakeModel
from tests.synthetic_small import small_config

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),  # from inside Feast, ibis and pandas
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
]

OVERLAY = {"sources": {"two_tower": None}, "first_stage": None, "eligibility": {"min_pool": 20}}
BEFORE_LAG = timedelta(minutes=-2)
"""From the platform's now to the publication of the hour that ended last."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITRINE_VAR_DIR", str(tmp_path_factory.mktemp("var")))
        patch.setenv("VITRINE_DATASET", "small")
        patch.setenv("VITRINE_NUM_THREADS", "1")
        patch.delenv("VITRINE_REDIS_URL", raising=False)
        found = Settings()
        generate(small_config(), found.workspace)
        save_snapshot(found.workspace, build_snapshot(found, load_spec().value_model.weights))
        build_features(found.workspace, found)
        apply_definitions(found.workspace)
        ensure_redis(found.workspace, found)
        yield found
        stop_redis(found.workspace)


@pytest.fixture(scope="module")
def published(settings):
    """When the features of an hour become known, late enough in the data that many hours follow and precede it."""
    end = settings.workspace.manifest().anchor_at
    return (end - timedelta(hours=20)).replace(minute=5, second=0, microsecond=0)


class Served:
    """A running feed of one workspace, its clock in the test's hands, everything it ranks kept."""

    def __init__(self, settings, folder, at, bounds=None):
        self.settings, self.workspace, self.folder = settings, settings.workspace, folder
        self.clock = FrozenClock(at)
        snapshot = load_snapshot(self.workspace)
        parts = load_parts(self.workspace, snapshot.catalogue)
        parts = replace(
            parts,
            second_stage=FakeModel(),
            feature_names=frozenset(FIELDS),
            versions={"second_stage": "model-1"},
            bounds=bounds or {},
        )
        self.log = FeatureLog(folder / "features", 1.0, lambda *_: None, MaterializedText(self.workspace))
        spec, journal, metrics = with_overlay(load_spec(), OVERLAY), Journal(folder / "journal.db"), Metrics()
        built = build_funnels({spec.surface: spec}, snapshot, parts, journal, metrics, self.log, None)
        funnels = ServingFunnels(built, fingerprint(self.workspace, None))
        self.runtime = Runtime(settings, self.workspace, self.clock, journal, metrics, funnels, feature_log=self.log)
        self.pages = ServedLog(folder / "served.db")
        numbers = count(1)
        self.feed = self.runtime.open_feed(self.pages, lambda: next(numbers))

    def ask(self, users=(3, 50, 51, 999_999), **context):
        """One page for each user, one of them unknown."""
        return [self.feed.page(FeedRequest(user, self.clock.at, **context)) for user in users]

    def kept(self):
        self.log.flush()
        return sorted(read_feature_log(self.folder / "features"), key=lambda kept: kept[0].request_id)

    def audit(self, kept=None):
        return audit(self.workspace, kept or self.kept(), self.pages.page)

    def materialize(self, at):
        """Brings Redis up to `at` and lets the log hear of it, as its thread does every few seconds."""
        materialize(self.workspace, FrozenClock(at))
        self.log._until = self.log._materialized()

    def close(self):
        self.feed.close()
        self.pages.close()
        self.runtime.close()


@pytest.fixture
def serve(settings, published, tmp_path: Path):
    """Opens feeds on features as of two minutes before a publication."""
    opened = []
    at = published + BEFORE_LAG
    # Redis keeps the newest rows it was ever given, so that going back in time means starting empty.
    store = open_feature_store(settings.workspace)
    store._get_provider().online_store.teardown(store.config, store.list_batch_feature_views(), [])
    for name in ("materialized.json", "registry.db"):
        (settings.workspace.data / name).unlink(missing_ok=True)
    apply_definitions(settings.workspace)
    materialize(settings.workspace, FrozenClock(at))

    def open_feed(**given):
        opened.append(Served(settings, tmp_path / str(len(opened)), at, **given))
        return opened[-1]

    yield open_feed
    for one in opened:
        one.close()


def causes_by_view(report):
    found = {}
    for feature in report.worst:
        found.setdefault(feature.feature.partition("__")[0], set()).update(feature.causes)
    return found


def test_a_clean_run_differs_nowhere_and_compares_everything(serve):
    served = serve()
    served.ask()
    served.ask(users=(3,), country="ES", language="es", device="web")
    report = served.audit()
    assert report.worst == []
    assert report.not_compared == {}
    assert report.num_requests == 5
    request_columns = {f"request__{n}" for n in ("hour", "weekday", "device", "country", "language", "surface")}
    assert {f.feature for f in report.features} == set(FIELDS) | request_columns
    counts = {f.feature: f.num_values for f in report.features}
    assert counts["user_profile__country"] == counts["request__hour"] == 5
    assert counts["post_profile__language"] == counts["user_post_cross__is_followed"] == report.num_posts > 100
    filled = [n for k, _ in served.kept() for n, v in k.posts.items() if v.dtype.kind == "f" and np.isfinite(v).any()]
    assert "user_post_cross__post_age_hours" in filled
    assert "creator_activity__rate_click_7d" in filled


def test_a_value_changed_in_redis_behind_the_platforms_back_is_unexplained(serve):
    served = serve()
    served.ask(users=(3,))
    creator = int(served.kept()[0][0].creator_ids[0])
    now = served.runtime.parts.reader.read("creator", np.array([creator]), ["creator_profile"])
    row = {f.name: now[f"creator_profile__{f.name}"][0] for f in VIEWS["creator_profile"].fields}
    store = open_feature_store(served.workspace)
    changed = {**row, "num_followers": np.float32(row["num_followers"] + 1), "creator_id": creator}
    changed |= {"event_at": served.clock.at, "known_at": served.clock.at}
    store.write_to_online_store("creator_profile", pd.DataFrame([changed]))
    served.clock.at += timedelta(seconds=1)
    served.runtime.funnel.features.creators.clear()
    served.ask(users=(3,))
    report = served.audit()
    (worst,) = report.worst
    assert worst.feature == "creator_profile__num_followers"
    assert set(worst.causes) == {Cause.UNEXPLAINED}
    assert (worst.example.creator_id, worst.example.user_id) == (creator, 3)
    assert float(worst.example.served) == float(worst.example.offline) + 1
    _, (after, _) = served.kept()
    assert worst.num_different == int((after.creator_ids == creator).sum()) > 0


def test_requests_after_a_publication_wait_for_the_next_materialisation(serve, published):
    served = serve()
    served.clock.at = published + timedelta(hours=3)
    served.ask()
    report = served.audit()
    assert set(report.causes) == {Cause.NOT_MATERIALIZED}
    found = causes_by_view(report)
    assert {"post_activity", "creator_activity", "user_post_cross"} & found.keys() >= {"post_activity"}
    assert all(causes == {Cause.NOT_MATERIALIZED} for causes in found.values())
    served.materialize(served.clock.at)
    served.clock.at += timedelta(minutes=20)  # past the caches' age
    served.ask(users=(60, 61))
    fresh = [kept for kept in served.kept() if kept[0].user_id in (60, 61)]
    assert served.audit(fresh).worst == []


def test_rows_held_by_a_cache_are_told_from_what_is_read_anew(serve, published):
    served = serve()
    served.ask(users=(3, 50, 51))
    served.materialize(published + timedelta(seconds=1))
    served.clock.at = published + timedelta(minutes=2)  # the rows are four minutes old
    served.ask(users=(3, 50, 51))
    later = [kept for kept in served.kept() if kept[0].served_at == served.clock.at]
    report = served.audit(later)
    assert set(report.causes) == {Cause.CACHED}
    assert "post_activity" in causes_by_view(report)
    assert not [view for view in causes_by_view(report) if view.startswith(("user_profile", "user_activity"))]
    # Held longer than the spec allows, nothing excuses them.
    overdue = [(replace(record, max_age_seconds=(60.0, 60.0)), until) for record, until in later]
    assert set(served.audit(overdue).causes) == {Cause.UNEXPLAINED}


def test_values_beyond_their_bounds_are_null_by_intent(serve, monkeypatch):
    bounds = {"post_activity__num_impressions_total": {"min": 0, "max": 20}}
    served = serve(bounds=bounds)
    served.ask()
    monkeypatch.setattr(skew, "bundle_bounds", lambda workspace, records: bounds)
    report = served.audit()
    (worst,) = report.worst
    assert worst.feature == "post_activity__num_impressions_total"
    assert set(worst.causes) == {Cause.OUT_OF_BOUNDS}
    assert worst.example.served == "null"
    monkeypatch.setattr(skew, "bundle_bounds", lambda workspace, records: {})
    assert set(served.audit().causes) == {Cause.UNEXPLAINED}


def test_a_cross_that_does_not_follow_from_what_it_was_served_with_is_unexplained(serve):
    served = serve()
    served.ask(users=(3,))
    ((record, until),) = served.kept()
    name = "user_post_cross__post_age_hours"
    altered = replace(record, posts={**record.posts, name: record.posts[name] + np.float32(1)})
    report = served.audit([(altered, until)])
    assert {f.feature: dict(f.causes) for f in report.worst} == {name: {Cause.UNEXPLAINED: len(record.post_ids)}}


def test_request_words_are_those_that_training_will_read(serve):
    served = serve()
    served.ask(users=(3,))
    ((record, until),) = served.kept()
    assert record.user["request__language"][0] != ""  # the client said none; the user's counts
    words = np.array(["xx"], dtype=object)
    altered = replace(record, user={**record.user, "request__language": words})
    report = served.audit([(altered, until)])
    assert [f.feature for f in report.worst] == ["request__language"]
    unknown = replace(record, request_id=12_345)
    assert served.audit([(unknown, until)]).not_compared == {NO_PAGE: 4}


def test_rankings_of_other_data_are_left_out_and_counted(serve):
    served = serve()
    served.ask(users=(3,))
    ((record, until),) = served.kept()
    report = served.audit([(replace(record, data_version="older"), until)])
    assert (report.num_values, report.not_compared) == (0, {OTHER_DATA: 1})


def test_the_command_ends_with_status_1_where_a_difference_is_unexplained(serve, settings, monkeypatch):
    monkeypatch.setattr(skew_run, "record", lambda *given: "run-1")
    served = serve()
    served.ask(users=(3,))
    ((record, until),) = served.kept()
    folder = settings.workspace.served_features
    (path,) = write_feature_log(folder, [(record, until)])
    clean = CliRunner().invoke(app, ["skew"])
    assert clean.exit_code == 0, clean.output
    path.unlink()
    name = "user_profile__num_follows"
    write_feature_log(folder, [(replace(record, user={**record.user, name: record.user[name] + 1}), until)])
    found = CliRunner().invoke(app, ["skew"])
    for path in folder.iterdir():
        path.unlink()
    assert found.exit_code == 1
    written = json.loads((settings.workspace.reports / "skew.json").read_text())
    assert not written["ok"]
    assert [(f["feature"], f["example"]["user_id"]) for f in written["worst"]] == [(name, 3)]


def test_without_models_the_command_says_what_to_run(settings):
    found = CliRunner().invoke(app, ["skew"])
    assert found.exit_code == 1
    assert "make pipeline" in found.output
