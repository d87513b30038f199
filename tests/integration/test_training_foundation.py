"""The foundation's views on a small world: from the log to the offline and the online store, and the audit's answer."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.clock import FrozenClock
from core.errors import InputError, LeakError
from core.schema import INSTANT
from core.settings import Settings
from events.synthetic.generate import generate
from feature_repo.build import build_features
from feature_repo.catalog import EXPORTED_VIEWS, FOUNDATION_DIM
from feature_repo.exported import read_exports, write_export
from feature_repo.materialize import materialize
from feature_repo.online import OnlineFeatures
from feature_repo.store import apply_definitions
from feature_repo.stores.embedded import redis_url, stop_redis
from tests.synthetic_small import small_config
from training import foundation as foundation_module
from training.foundation import FoundationOptions, export_views, last_hour, read_chain, train_foundation
from training.foundation_events import PUBLISHED_AFTER, read_events
from training.leak_audit import audit_sets
from training.leak_checks import AuditConfig
from training.sets import FOUNDATION_SERVICE, build_set, joined_features, set_configs
from training.splits import SplitConfig
from validation.gates import check_features

SPLIT = SplitConfig(warmup_days=0.5, validation_days=0.25, calibration_days=0.5, test_days=0.5)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),  # from inside Feast, ibis and pandas
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
]


def quiet(*_: object) -> None:
    pass


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A world of three days, its features built, a quick foundation model trained and exported."""
    settings = Settings(var_dir=tmp_path_factory.mktemp("var"), dataset="foundation", num_threads=1)
    generate(small_config(), settings.workspace)
    build_features(settings.workspace, settings)
    apply_definitions(settings.workspace)
    configs = set_configs(settings.workspace.manifest(), has_foundation=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foundation_module, "LEAST_EVENTS", 50)
        short = {name: replace(config, split=SPLIT) for name, config in configs.items()}
        patch.setattr(foundation_module, "set_configs", lambda *_, **__: short)
        train_foundation(settings, FoundationOptions(snapshots=2, is_quick=True), quiet)
    return settings


def entity_rows(settings: Settings, micros: list[int], user_id: int) -> pa.Table:
    _, catalogue = read_events(settings, settings.workspace)
    count = len(micros)
    return pa.table(
        {
            "user_id": pa.array([user_id] * count, pa.int64()),
            "post_id": pa.array([int(catalogue.ids[0])] * count, pa.int64()),
            "creator_id": pa.array([0] * count, pa.int64()),
            "served_at": pa.array(micros).cast(INSTANT),
        }
    )


def test_the_offline_store_gives_the_row_known_at_each_instant(settings: Settings) -> None:
    rows = (
        pq.read_table(settings.workspace.features / "user_foundation").sort_by([("user_id", "ascending")]).to_pylist()
    )
    busiest = max({r["user_id"] for r in rows}, key=lambda u: sum(r["user_id"] == u for r in rows))
    own = sorted((r for r in rows if r["user_id"] == busiest), key=lambda r: r["event_at"])
    known = [round(r["known_at"].timestamp() * 1e6) for r in own]
    asked = [known[0] - 1, *known, known[-1] + 3_600_000_000]
    found = joined_features(settings.workspace, entity_rows(settings, asked, busiest), FOUNDATION_SERVICE)
    vectors, counts = found["user_foundation__click"], found["user_foundation__num_events"]
    assert vectors.shape == (len(asked), FOUNDATION_DIM)
    assert not vectors[0].any()
    assert np.isnan(counts[0])
    assert np.array_equal(vectors[1:-1], np.array([r["click"] for r in own], dtype=np.float32))
    assert counts[1:].tolist() == [*(r["num_events"] for r in own), own[-1]["num_events"]]
    stranger = joined_features(settings.workspace, entity_rows(settings, known, 10**9), FOUNDATION_SERVICE)
    assert not stranger["user_foundation__click"].any()


def test_rows_are_known_after_their_hour_and_younger_than_their_weights(settings: Settings) -> None:
    for view in EXPORTED_VIEWS:
        rows = pq.read_table(settings.workspace.features / view)
        lag = rows["known_at"].cast("int64").to_numpy() - rows["event_at"].cast("int64").to_numpy()
        assert set(lag.tolist()) == {PUBLISHED_AFTER * 1_000_000}
        assert min(rows["weights_age_hours"].to_pylist()) >= 1
    assert all(report.num_quarantined == 0 for report in check_features(settings, FrozenClock(end_of(settings))))


def end_of(settings: Settings):
    return settings.workspace.manifest().anchor_at


def test_the_audit_rebuilds_the_vectors_from_a_cut_log(settings: Settings) -> None:
    config = set_configs(settings.workspace.manifest(), max_rows=4_000, has_foundation=True)["second_stage"]
    build_set(settings, replace(config, split=SPLIT), quiet)
    (audit,) = audit_sets(settings, ["second_stage"], AuditConfig(num_cuts=2, rows_per_cut=200), quiet)
    checks = {check.check: check for check in audit.checks}
    assert checks["counterfactual"].num_rows > 50
    assert [leak.feature for leak in checks["counterfactual"].leaks] == []
    assert [leak.feature for leak in checks["known time"].leaks] == []


def test_a_snapshot_that_learned_from_other_events_is_refused(settings: Settings, tmp_path) -> None:
    shutil.copytree(settings.workspace.bundles, tmp_path / "foundation" / "bundles")
    other = Settings(var_dir=tmp_path, dataset="foundation").workspace
    path = other.bundles / "foundation" / "chain.json"
    chain = json.loads(path.read_text())
    path.write_text(json.dumps([{**link, "digest": "0" * 16} for link in chain]))
    events, catalogue = read_events(settings, settings.workspace)
    with pytest.raises(LeakError, match="other events"):
        export_views(settings.workspace, other, events, catalogue, last_hour(settings.workspace))
    assert len(read_chain(settings.workspace)) == 2


def test_online_values_are_the_newest_rows_and_follow_a_new_export(settings: Settings) -> None:
    clock = FrozenClock(end_of(settings))
    try:
        redis_url(settings.workspace, settings)
        done = {v.view: v for v in materialize(settings.workspace, clock)}
        assert done["user_foundation"].num_rows > 0
        events, _ = read_events(settings, settings.workspace)
        users = events.user_ids[:20]
        until = [round(end_of(settings).timestamp() * 1e6)] * len(users)
        rows = entity_rows(settings, until, 0).set_column(0, "user_id", pa.array(users))
        offline = joined_features(settings.workspace, rows, FOUNDATION_SERVICE)
        online = OnlineFeatures(settings.workspace).read("user", users, ["user_foundation"])
        assert np.array_equal(online["user_foundation__click"], offline["user_foundation__click"])
        # Other weights: the same instants with other values must reach Redis too.
        view = "user_foundation"
        columns = EXPORTED_VIEWS[view].columns
        table = pq.read_table(settings.workspace.features / view, columns=list(columns))
        doubled = pa.array([[2 * x for x in v] for v in table["click"].to_pylist()])
        write_export(settings.workspace, view, table.set_column(1, "click", doubled), "others")
        materialize(settings.workspace, clock)
        again = OnlineFeatures(settings.workspace).read("user", users, [view])
        assert np.array_equal(again[f"{view}__click"], 2 * offline[f"{view}__click"])
    finally:
        stop_redis(settings.workspace)
    with pytest.raises(InputError, match="expected some of"):
        write_export(settings.workspace, view, table.drop_columns(["num_events"]), "broken")
    assert read_exports(settings.workspace)[view].made_by == "others"
