"""The feature store whole: real Feast, real Redis, a small log from build to online read."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

from core.clock import FrozenClock
from core.errors import ConfigError, InputError, StoreUnavailableError
from core.settings import Settings
from core.workspace import Workspace
from feature_repo import link as link_module
from feature_repo.build import build_features
from feature_repo.catalog import ALL_VIEWS, CROSS_VIEW, ENTITY_VIEWS, EXPORTED_VIEWS, FIELDS
from feature_repo.columns import Columns, columns_from_arrow, null_columns
from feature_repo.crosses import cross_features
from feature_repo.describe import num_features
from feature_repo.historical import training_frame
from feature_repo.materialize import materialize
from feature_repo.online import OnlineFeatures
from feature_repo.store import CONFIG_PATH, apply_definitions, open_feature_store
from feature_repo.stores import on_demand
from feature_repo.stores.embedded import ensure_redis, stop_redis
from tests.feature_logs import END, START, random_log

NOW = END - timedelta(hours=30, minutes=7)  # rows after it exist and must not show
INSTANT = pa.timestamp("us", tz="UTC")
EXPORTED = {f"{view.name}__{f.name}" for view in EXPORTED_VIEWS.values() for f in view.fields}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),  # from inside Feast, ibis and pandas
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    var_dir = tmp_path_factory.mktemp("var")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITRINE_VAR_DIR", str(var_dir))
        patch.setenv("VITRINE_DATASET", "small")
        patch.setenv("VITRINE_NUM_THREADS", "1")
        patch.delenv("VITRINE_REDIS_URL", raising=False)
        yield var_dir


@pytest.fixture(scope="module")
def workspace(environment: Path) -> Iterator[Workspace]:
    made = random_log(21, num_impressions=300, num_users=8, num_posts=14).write(environment)
    settings = Settings()
    build_features(made, settings)
    apply_definitions(made)
    ensure_redis(made, settings)
    materialize(made, FrozenClock(NOW))
    yield made
    stop_redis(made)


def entity_rows(workspace: Workspace, num_rows: int = 60) -> pa.Table:
    table = pq.read_table(workspace.log / "impressions").slice(0, num_rows)
    rows = table.select(["user_id", "post_id", "creator_id"])
    rows = rows.append_column("event_timestamp", table.column("served_at"))
    return rows.append_column("note", pa.array([None if i % 3 else i for i in range(num_rows)], pa.int64()))


def assert_columns_equal(left: Columns, right: Columns) -> None:
    assert set(left) == set(right)
    for name, values in left.items():
        assert values.dtype == right[name].dtype, name
        np.testing.assert_array_equal(values, right[name], err_msg=name)


def test_a_training_frame_keeps_rows_and_order_and_adds_every_feature_of_the_service(workspace: Workspace) -> None:
    rows = entity_rows(workspace)
    frame = training_frame(workspace, rows, "second_stage_v1")
    assert frame.select(rows.column_names).equals(rows)
    wanted = set(FIELDS) - {"user_profile__followed_creator_ids"} - EXPORTED
    assert set(frame.column_names) == set(rows.column_names) | wanted
    assert set(training_frame(workspace, rows, "retrieval_v1").column_names) == set(rows.column_names) | {
        n for n in wanted if not n.startswith(CROSS_VIEW)
    }


def test_an_unknown_service_and_missing_keys_are_refused_by_name(workspace: Workspace) -> None:
    rows = entity_rows(workspace)
    with pytest.raises(InputError, match="creator_id"):
        training_frame(workspace, rows.drop_columns(["creator_id"]), "retrieval_v1")
    with pytest.raises(Exception, match="no_such_service"):
        training_frame(workspace, rows, "no_such_service")


def test_online_and_offline_agree_at_the_same_instant(workspace: Workspace) -> None:
    users, posts, creators = np.arange(10), np.arange(16), np.arange(4)
    size = 16
    rows = pa.table(
        {
            "user_id": np.resize(users, size),
            "post_id": np.resize(posts, size),
            "creator_id": np.resize(creators, size),
            "event_timestamp": pa.array([NOW] * size, INSTANT),
        }
    )
    offline = columns_from_arrow(training_frame(workspace, rows, "second_stage_v1"))
    online = OnlineFeatures(workspace)
    user = online.read("user", np.resize(users, size))
    post = online.read("post", np.resize(posts, size))
    creator = online.read("creator", np.resize(creators, size))
    crosses = cross_features(user, post, NOW.timestamp())
    together = {**user, **post, **creator, **crosses}
    del together["user_profile__followed_creator_ids"]
    assert_columns_equal({name: column for name, column in together.items() if name not in EXPORTED}, offline)
    assert (offline["post_activity__num_impressions_total"] > 0).sum() > 5


def test_the_fast_online_read_equals_feasts_own(workspace: Workspace) -> None:
    store = open_feature_store(workspace)
    fast = OnlineFeatures(workspace)
    for entity, key in (("user", "user_id"), ("post", "post_id"), ("creator", "creator_id")):
        ids = [0, 1, 2, 999]
        refs = [f"{view}:{f.name}" for view in ENTITY_VIEWS[entity] for f in ALL_VIEWS[view].fields]
        response = store.get_online_features(refs, [{key: i} for i in ids], full_feature_names=True).to_dict()
        columns = fast.read(entity, np.array(ids))
        for name, values in columns.items():
            field = FIELDS[name]
            for got, theirs in zip(values, response[name], strict=True):
                if field.length:
                    kept = list(theirs or [])[: field.length]
                    pad = -1 if field.dtype == "ints" else 0.0
                    assert got.tolist() == kept + [pad] * (field.length - len(kept)), name
                elif theirs is None:
                    assert got in ("", -1) or np.isnan(got)
                else:
                    assert got == theirs


def test_an_unknown_id_reads_as_null_and_no_ids_as_no_rows(workspace: Workspace) -> None:
    online = OnlineFeatures(workspace)
    names = [f"{view}__{f.name}" for view in ENTITY_VIEWS["post"] for f in ALL_VIEWS[view].fields]
    assert_columns_equal(online.read("post", np.array([10**12])), null_columns(names, 1))
    assert_columns_equal(online.read("post", np.array([], dtype=np.int64)), null_columns(names, 0))
    with pytest.raises(ValueError, match="not about a post"):
        online.read("post", np.array([1]), ["user_profile"])


def test_feasts_on_demand_view_works_online(workspace: Workspace) -> None:
    store = open_feature_store(workspace)
    rows = [{"user_id": 1, "post_id": p, "requested_at": NOW.timestamp()} for p in range(5)]
    refs = [f"{CROSS_VIEW}:post_age_hours", f"{CROSS_VIEW}:user_creator_affinity", f"{CROSS_VIEW}:is_followed"]
    response = store.get_online_features(refs, rows, full_feature_names=True).to_dict()
    online = OnlineFeatures(workspace)
    ours = cross_features(online.read("user", np.array([1])), online.read("post", np.arange(5)), NOW.timestamp())
    for ref in refs:
        name = ref.replace(":", "__")
        theirs = np.array([np.nan if v is None else v for v in response[name]], dtype=np.float32)
        np.testing.assert_allclose(ours[name], theirs, rtol=1e-6, err_msg=name)


def test_materialising_again_reads_only_what_became_known_since(workspace: Workspace) -> None:
    online = OnlineFeatures(workspace)
    before = online.read("post", np.arange(14))
    spans = materialize(workspace, FrozenClock(NOW + timedelta(minutes=1)))
    assert all(s.until - s.since <= timedelta(minutes=1) for s in spans)
    assert_columns_equal(online.read("post", np.arange(14)), before)
    later = NOW + timedelta(hours=26)
    materialize(workspace, FrozenClock(later))
    after = online.read("post", np.arange(14))
    assert not np.array_equal(after["post_activity__num_impressions_24h"], before["post_activity__num_impressions_24h"])


def test_a_redis_that_lost_its_rows_is_filled_again_though_no_build_is_new(workspace: Workspace) -> None:
    online, at = OnlineFeatures(workspace), FrozenClock(NOW + timedelta(hours=26))
    before = online.read("post", np.arange(14))
    with redis.Redis.from_url(ensure_redis(workspace, Settings(dataset=workspace.root.name))) as client:
        client.flushall()
    assert (online.read("post", np.arange(14), ["post_profile"])["post_profile__topic_id"] == -1).all()
    materialize(workspace, at)
    assert_columns_equal(online.read("post", np.arange(14)), before)
    assert all(span.num_rows == 0 for span in materialize(workspace, at) if span.num_rows is not None)


def test_the_stock_duckdb_store_is_one_line_away_and_agrees(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = entity_rows(workspace, 25)
    ours = training_frame(workspace, rows, "second_stage_v1")
    text = CONFIG_PATH.read_text()
    stock = tmp_path / "feature_store.yaml"
    stock.write_text(text.replace("type: feature_repo.stores.asof.AsofOfflineStore", "type: duckdb"))
    assert stock.read_text() != text
    monkeypatch.setattr("feature_repo.store.CONFIG_PATH", stock)
    monkeypatch.chdir(workspace.root)  # the stock store reads relative paths below the working directory
    theirs = training_frame(workspace, rows, "second_stage_v1")
    assert_columns_equal(columns_from_arrow(ours), columns_from_arrow(theirs))


def test_feasts_redis_format_is_one_line_away_and_agrees(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = CONFIG_PATH.read_text()
    stock = tmp_path / "feature_store.yaml"
    ours, theirs = "packed.store.PackedOnlineStore\n", "redis.WorkspaceRedisOnlineStore\n"
    stock.write_text(text.replace(f"  type: feature_repo.stores.{ours}", f"  type: feature_repo.stores.{theirs}"))
    assert stock.read_text() != text
    packed = open_feature_store(workspace)
    monkeypatch.setattr("feature_repo.store.CONFIG_PATH", stock)
    store = open_feature_store(workspace)
    store.materialize(END - timedelta(days=3650), END, feature_views=["user_profile"])
    packed.materialize(END - timedelta(days=3650), END, feature_views=["user_profile"])
    refs = [f"user_profile:{f.name}" for f in ALL_VIEWS["user_profile"].fields]
    rows = {"user_id": [*range(10)]}
    assert store.get_online_features(refs, rows).to_dict() == packed.get_online_features(refs, rows).to_dict()
    with pytest.raises(ConfigError, match="PackedOnlineStore"):
        OnlineFeatures(workspace)


def test_a_planted_future_value_never_reaches_a_training_frame(workspace: Workspace) -> None:
    rows = entity_rows(workspace, 30)
    clean = training_frame(workspace, rows, "retrieval_v1")
    folder = workspace.features / "user_activity"
    honest = pq.read_table(folder)
    after_all = pa.scalar(END + timedelta(days=1), INSTANT)
    poison = honest.set_column(
        honest.schema.get_field_index("num_click_total"), "num_click_total", pa.array([1e6] * len(honest), pa.float32())
    ).set_column(honest.schema.get_field_index("known_at"), "known_at", pa.array([after_all] * len(honest), INSTANT))
    planted = folder / "day=2026-03-01" / "planted.parquet"
    pq.write_table(poison.drop_columns(["day"]) if "day" in poison.column_names else poison, planted)
    try:
        leaky = training_frame(workspace, rows, "retrieval_v1")
    finally:
        planted.unlink()
    assert leaky.equals(clean)


def test_on_demand_slices_do_not_change_the_values(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = entity_rows(workspace, 50)
    whole = training_frame(workspace, rows, "second_stage_v1")
    monkeypatch.setattr(on_demand, "ON_DEMAND_ROWS", 7)
    assert training_frame(workspace, rows, "second_stage_v1").equals(whole)


def test_redis_that_is_down_is_reported_as_unavailable(workspace: Workspace) -> None:
    online = OnlineFeatures(workspace)
    online.read("user", np.array([1]))
    stop_redis(workspace)
    try:
        with pytest.raises(StoreUnavailableError, match="redis-start"):
            online.read("user", np.array([1]))
    finally:
        ensure_redis(workspace, Settings())
    assert online.read("user", np.array([1]))["user_activity__num_impressions_total"][0] > 0


def test_datasets_do_not_collide_on_a_shared_server(workspace: Workspace, environment: Path) -> None:
    url = ensure_redis(workspace, Settings())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITRINE_REDIS_URL", url)
        other = random_log(22, num_impressions=5, num_users=2, num_posts=3).write(environment, "other")
        build_features(other, Settings(dataset="other"))
        apply_definitions(other)
        before = OnlineFeatures(workspace).read("user", np.arange(8))
        materialize(other, FrozenClock(END))
        assert_columns_equal(OnlineFeatures(workspace).read("user", np.arange(8)), before)
        assert not (other.data / "redis" / "endpoint.json").exists()


def test_features_of_another_data_version_replace_what_redis_holds(environment: Path) -> None:
    first = random_log(31, num_impressions=20, num_users=2).write(environment, "again")
    settings = Settings(dataset="again")
    build_features(first, settings)
    apply_definitions(first)
    try:
        materialize(first, FrozenClock(END))
        manifest = first.manifest()
        random_log(32, num_impressions=40, num_users=2).write(environment, "again")
        first.write_manifest(type(manifest)(**{**vars(manifest), "data_version": "v2"}))
        build_features(first, settings)
        materialize(first, FrozenClock(END))
        rows = pq.read_table(first.features / "user_activity").to_pylist()
        newest = {r["user_id"]: r for r in sorted(rows, key=lambda r: r["event_at"]) if r["known_at"] <= END}
        online = OnlineFeatures(first).read("user", np.array(sorted(newest)), ["user_activity"])
        got = online["user_activity__num_impressions_total"].tolist()
        assert got == [newest[u]["num_impressions_total"] for u in sorted(newest)]
    finally:
        stop_redis(first)


def test_there_are_at_least_sixty_features_and_every_view_says_whose_it_is(workspace: Workspace) -> None:
    store = open_feature_store(workspace)
    assert num_features() >= 60
    views = [*store.list_batch_feature_views(), *store.list_on_demand_feature_views()]
    assert len(views) == len(ALL_VIEWS) + 1
    assert all(v.description and v.owner and {"grain", "freshness", "owner"} <= set(v.tags) for v in views)


def run_feast(workspace: Workspace, repo: Path, *command: str) -> str:
    """Output of a bare feast command in a folder like feature_repo/, linked to the workspace."""
    room = CONFIG_PATH.parent
    repo.mkdir(exist_ok=True)
    for name in ("feature_store.yaml", ".feastignore", "definitions.py"):
        (repo / name).write_bytes((room / name).read_bytes())
    link_module.link_workspace(workspace, repo / "data")
    feast = str(Path(sys.executable).with_name("feast"))
    env = {**os.environ, "PYTHONPATH": str(room.parent), "FEAST_USAGE": "False"}
    run = subprocess.run([feast, *command], cwd=repo, env=env, capture_output=True, text=True, timeout=180)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout


def test_bare_feast_apply_works_in_a_linked_repo(workspace: Workspace, tmp_path: Path) -> None:
    run_feast(workspace, tmp_path / "feature_repo", "apply")
    assert len(open_feature_store(workspace).list_feature_services()) == 4


@pytest.mark.long
def test_bare_feast_lists_and_materialises_in_a_linked_repo(workspace: Workspace, tmp_path: Path) -> None:
    repo = tmp_path / "feature_repo"
    assert "creator_activity" in run_feast(workspace, repo, "feature-views", "list")
    end = (END - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S")
    assert "user_activity" in run_feast(workspace, repo, "materialize-incremental", end)
    assert OnlineFeatures(workspace).read("user", np.array([1]))["user_activity__num_impressions_total"][0] > 0


def test_first_rows_are_there_from_the_start(workspace: Workspace) -> None:
    rows = entity_rows(workspace, 10).set_column(
        3, "event_timestamp", pa.array([START - timedelta(hours=1)] * 10, INSTANT)
    )
    columns = columns_from_arrow(training_frame(workspace, rows, "retrieval_v1"))
    assert np.isnan(columns["user_activity__num_impressions_total"]).all()
    assert (columns["user_profile__country"] != "").all()
