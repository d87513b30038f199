"""Sets, training, registration, index and evaluation on a small log whose clicks follow one planted feature."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from core.errors import FeatureStoreError, InputError, MissingStageError
from core.schema import HEADS, INSTANT, TABLES
from core.settings import Settings
from core.workspace import DatasetManifest
from events.log import append
from feature_repo.catalog import FIELDS
from training.catalogue import build_catalogue, catalogue_at
from training.set_files import load_set
from training.sets import SetConfig, build_set, set_configs
from training.splits import SPLITS, is_held_out

START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 6
NUM_USERS, NUM_POSTS, NUM_REQUESTS, SLATE = 60, 80, 900, 6
PLANTED = "user_post_cross__content_similarity"


def quiet(done: int, total: int) -> None:
    pass


def instants(seconds: np.ndarray) -> pa.Array:
    return pa.array((np.asarray(seconds) * 1e6).astype(np.int64), pa.int64()).cast(INSTANT)


def taste(user_ids: np.ndarray, post_ids: np.ndarray) -> np.ndarray:
    """What a user likes: posts of the same remainder."""
    return np.where(user_ids % 4 == post_ids % 4, 1.0, -1.0).astype(np.float32)


def table(name: str, **columns: object) -> pa.Table:
    schema = TABLES[name].arrow
    n = len(next(iter(columns.values())))  # type: ignore[arg-type]
    arrays = [
        pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(n, f.type)  # type: ignore[arg-type]
        for f in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    found = Settings(var_dir=tmp_path_factory.mktemp("var"), dataset="tiny", num_threads=1)
    write_log(found)
    return found


def write_log(settings: Settings) -> None:
    rng = np.random.default_rng(0)
    workspace, start = settings.workspace, START.timestamp()
    posts = np.arange(NUM_POSTS)
    created = np.full(NUM_POSTS, start - 86_400)
    rows = {"posts": NUM_POSTS}
    append(
        workspace.log,
        "posts",
        table(
            "posts",
            post_id=posts,
            external_id=[str(p) for p in posts],
            creator_id=posts // 4,
            created_at=instants(created),
            media_type=["image"] * NUM_POSTS,
            topic_id=posts % 4,
            is_recommendable=[p != 7 for p in posts],
            content_codes=[[1]] * NUM_POSTS,
            event_at=instants(created),
            known_at=instants(created),
        ),
        source="test",
    )
    at = np.sort(rng.uniform(start, start + DAYS * 86_400 - 2_000, NUM_REQUESTS)).round(3)
    users = rng.integers(0, NUM_USERS, NUM_REQUESTS)
    requests = np.arange(1, NUM_REQUESTS + 1)
    append(
        workspace.log,
        "requests",
        table(
            "requests",
            request_id=requests,
            user_id=users,
            session_id=requests,
            surface=["explore"] * NUM_REQUESTS,
            device=["ios" if r % 2 else "web" for r in requests],
            spec_version=["log"] * NUM_REQUESTS,
            event_at=instants(at),
            known_at=instants(at),
        ),
        source="test",
    )
    slates = np.stack([rng.choice(NUM_POSTS, SLATE, replace=False) for _ in requests])
    n = NUM_REQUESTS * SLATE
    seen_at = np.repeat(at, SLATE) + np.tile(np.arange(1, SLATE + 1), NUM_REQUESTS)
    user_ids, post_ids, request_ids = np.repeat(users, SLATE), slates.ravel(), np.repeat(requests, SLATE)
    imputed = np.zeros(n, dtype=bool)
    imputed[:SLATE] = True
    append(
        workspace.log,
        "impressions",
        table(
            "impressions",
            event_id=[f"i{k}" for k in range(n)],
            request_id=request_ids,
            user_id=user_ids,
            post_id=post_ids,
            creator_id=post_ids // 4,
            surface=["explore"] * n,
            position=np.tile(np.arange(SLATE), NUM_REQUESTS).astype(np.int32),
            served_at=instants(np.repeat(at, SLATE)),
            observed_kinds=[["click", "like"] if k % 10 == 0 else None for k in range(n)],
            is_time_imputed=imputed,
            event_at=instants(seen_at),
            known_at=instants(seen_at),
        ),
        source="test",
    )
    clicked = np.flatnonzero(rng.random(n) < np.where(taste(user_ids, post_ids) > 0, 0.6, 0.05))
    append(
        workspace.log,
        "engagements",
        table(
            "engagements",
            event_id=[f"e{k}" for k in clicked],
            impression_id=[f"i{k}" for k in clicked],
            request_id=request_ids[clicked],
            user_id=user_ids[clicked],
            post_id=post_ids[clicked],
            creator_id=post_ids[clicked] // 4,
            kind=["click"] * len(clicked),
            is_time_imputed=imputed[clicked],
            event_at=instants(seen_at[clicked] + 2),
            known_at=instants(seen_at[clicked] + 2),
        ),
        source="test",
    )
    workspace.write_manifest(
        DatasetManifest(
            "tiny",
            "world",
            "v1",
            START + timedelta(days=DAYS),
            START,
            START + timedelta(days=DAYS, seconds=-1),
            rows,
            {},
        )
    )


def stub_frame(workspace: object, entity_rows: pa.Table, service: str) -> pa.Table:
    """What the feature join returns, in an order of its own: planted tastes, constants for the rest."""
    n = len(entity_rows)
    user_ids, post_ids = entity_rows["user_id"].to_numpy(), entity_rows["post_id"].to_numpy()
    planted = {
        PLANTED: pa.array(taste(user_ids, post_ids)),
        "post_profile__creator_id": pa.array(post_ids // 4),
        "post_profile__topic_id": pa.array(post_ids % 4),
        "post_profile__media_type": pa.array(["image"] * n),
        "user_history__history_post_ids": pa.array(
            [[u % 4, u % 4 + 4] for u in user_ids.tolist()], pa.list_(pa.int64())
        ),
        "user_history__history_topic_ids": pa.array([[u % 4] for u in user_ids.tolist()], pa.list_(pa.int64())),
        "user_activity__num_click_total": pa.array(
            entity_rows["event_timestamp"].cast(pa.int64()).to_numpy() / 1e6 % 1_000
        ),
    }
    empty = {"float": pa.float32(), "int": pa.int64(), "str": pa.string()}
    lists = {"ints": pa.list_(pa.int64()), "floats": pa.list_(pa.float32())}
    columns = dict(zip(entity_rows.column_names, entity_rows.columns, strict=True))
    for name, field in FIELDS.items():
        if service == "second_stage_v1" or not name.startswith("user_post_cross"):
            columns[name] = planted.get(name, pa.nulls(n, (empty | lists)[field.dtype]))
    order = np.random.default_rng(1).permutation(n)
    return pa.table(columns).take(pa.array(order))


@pytest.fixture(autouse=True)
def stubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    import feature_repo.historical

    monkeypatch.setattr(feature_repo.historical, "training_frame", stub_frame)


def config(settings: Settings, name: str) -> SetConfig:
    from dataclasses import replace

    return replace(set_configs(settings.workspace.manifest())[name], chunk_rows=700)


@pytest.fixture(scope="module")
def built(settings: Settings) -> Settings:
    import feature_repo.historical

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_repo.historical, "training_frame", stub_frame)
        for name in ("second_stage", "retrieval"):
            build_set(settings, config(settings, name), quiet)
    return settings


def test_each_row_carries_its_own_features_labels_and_context(built: Settings) -> None:
    rows = load_set(built.workspace.training_sets, "second_stage").examples()
    np.testing.assert_array_equal(rows.columns[PLANTED], taste(rows.user_ids, rows.post_ids))
    np.testing.assert_allclose(rows.columns["user_activity__num_click_total"], rows.served_at % 1_000, rtol=1e-4)
    np.testing.assert_array_equal(rows.columns["post_profile__creator_id"], rows.post_ids // 4)
    devices = rows.columns["request__device"]
    assert (devices == np.where(rows.request_ids % 2, "ios", "web")).all()
    moments = [datetime.fromtimestamp(at, UTC) for at in rows.served_at[:50]]
    assert rows.columns["request__hour"][:50].tolist() == [m.hour for m in moments]
    assert rows.columns["request__weekday"][:50].tolist() == [m.weekday() for m in moments]
    rate = np.nanmean(rows.labels[rows.columns[PLANTED] > 0, HEADS.index("click")])
    assert 0.5 < rate < 0.7


def test_unobserved_kinds_have_no_label_and_unhappened_ones_are_zero(built: Settings) -> None:
    labels = load_set(built.workspace.training_sets, "second_stage").examples().labels
    share_unobserved = np.isnan(labels).mean(axis=0)
    assert share_unobserved[HEADS.index("click")] == 0
    assert 0.08 < share_unobserved[HEADS.index("long_view")] < 0.12
    assert np.nansum(labels[:, HEADS.index("share")]) == 0


def test_rows_are_in_order_of_time_and_splits_are_ranges(built: Settings) -> None:
    found = load_set(built.workspace.training_sets, "second_stage")
    parts = [found.examples(name).served_at for name in SPLITS]
    assert all(len(part) for part in parts)
    assert (np.diff(np.concatenate(parts)) >= 0).all()
    assert sum(found.manifest.rows_by_split.values()) == found.manifest.rows == found.examples().num_rows


def test_held_out_users_train_nothing(built: Settings) -> None:
    found = load_set(built.workspace.training_sets, "second_stage")
    assert is_held_out(np.arange(NUM_USERS)).any()
    for name in ("train", "validation", "calibration"):
        assert not is_held_out(found.examples(name).user_ids).any(), name
    assert is_held_out(found.examples("test").user_ids).any()


def test_columns_stay_memory_mapped(built: Settings) -> None:
    train = load_set(built.workspace.training_sets, "second_stage").examples("train")
    assert isinstance(train.columns[PLANTED], np.memmap)
    assert train.columns["user_history__history_post_ids"].dtype == np.int32


def test_a_set_is_kept_until_its_inputs_change(built: Settings) -> None:
    wanted = config(built, "second_stage")
    same, is_new = build_set(built, wanted, quiet)
    assert not is_new
    again, is_new = build_set(built, wanted, quiet, is_forced=True)
    assert is_new
    assert again.manifest.set_id == same.manifest.set_id
    from dataclasses import replace

    other, is_new = build_set(built, replace(wanted, name="other", max_rows=1_000), quiet)
    assert is_new
    assert 700 < other.manifest.rows < 1_300


def test_sampling_keeps_whole_requests_and_records_weights(built: Settings) -> None:
    from dataclasses import replace

    few, _ = build_set(built, replace(config(built, "second_stage"), name="few", max_rows=900), quiet)
    everything = load_set(built.workspace.training_sets, "second_stage").examples()
    rows = few.examples()
    kept = np.isin(everything.request_ids, rows.request_ids)
    assert kept.sum() == rows.num_rows < everything.num_rows
    assert rows.weights is not None
    np.testing.assert_allclose(rows.weights.sum(), everything.num_rows, rtol=0.25)


def test_retrieval_rows_keep_every_positive_with_weights_that_restore_the_rate(built: Settings) -> None:
    everything = load_set(built.workspace.training_sets, "second_stage").examples()
    rows = load_set(built.workspace.training_sets, "retrieval").examples()
    click = HEADS.index("click")
    assert rows.labels[:, click].sum() == everything.labels[:, click].sum()
    assert abs(rows.labels[:, click].mean() - 0.5) < 0.05
    rate = np.average(rows.labels[:, click], weights=rows.weights)
    assert abs(rate - everything.labels[:, click].mean()) < 0.03
    assert PLANTED not in rows.columns


def test_a_failed_build_leaves_the_old_set_and_no_litter(built: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    import feature_repo.historical

    root = built.workspace.training_sets
    before = load_set(root, "second_stage").manifest.set_id
    monkeypatch.setattr(feature_repo.historical, "training_frame", lambda w, rows, s: stub_frame(w, rows.slice(1), s))
    with pytest.raises(FeatureStoreError, match="expected one each"):
        build_set(built, config(built, "second_stage"), quiet, is_forced=True)
    assert load_set(root, "second_stage").manifest.set_id == before
    assert not [p for p in root.iterdir() if p.name.startswith(".")]


def test_missing_rows_say_what_to_run(built: Settings) -> None:
    with pytest.raises(MissingStageError, match="draw-candidates"):
        build_set(built, config(built, "first_stage"), quiet)
    with pytest.raises(MissingStageError, match="training sets"):
        load_set(built.workspace.training_sets, "nothing")


def test_a_damaged_manifest_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="not a training set manifest"):
        load_set(tmp_path, "s")


def test_the_catalogue_holds_what_may_be_recommended(built: Settings) -> None:
    at = catalogue_at(built)
    assert at == START + timedelta(days=DAYS)
    catalogue = build_catalogue(built, at, quiet)
    ids = catalogue.examples().post_ids
    assert ids.tolist() == [p for p in range(NUM_POSTS) if p != 7]
    early = START - timedelta(days=2)
    with pytest.raises(InputError, match="no recommendable post"):
        build_catalogue(built, early, quiet, name="early")


def test_training_registers_a_champion_and_builds_an_index_that_matches_it(built: Settings) -> None:
    from models.ann import champion_index, load_index
    from models.bundle import load_bundle
    from training.index import build_index
    from training.publish import champion_bundle
    from training.train import TrainOptions, train_stage

    options = TrainOptions(is_quick=True)
    ranker = train_stage(built, "second_stage", options)
    assert ranker.is_champion
    assert ranker.metrics["test/auc_click"] > 0.7
    assert 0.8 < ranker.metrics["test/calibration_click"] < 1.25
    retriever = train_stage(built, "retrieval", options)
    again = train_stage(built, "retrieval", options)
    assert not again.is_new
    assert again.bundle_id == retriever.bundle_id
    path = champion_bundle(built, "retrieval")
    assert path.name == retriever.bundle_id
    reports = build_index(built, quiet)
    assert reports[0].count == NUM_POSTS - 1
    index = load_index(champion_index(built.workspace.index), load_bundle(path).bundle_id)
    assert set(index.post_ids.tolist()) == set(range(NUM_POSTS)) - {7}
    assert not build_index(built, quiet)[0].is_new


def test_offline_evaluation_puts_models_beside_baselines(built: Settings) -> None:
    pytest.importorskip("lightgbm", reason="the baseline is a development dependency")
    from training.evaluate import evaluate
    from training.evaluation_report import record_evaluation
    from training.train import TrainOptions, train_stage

    for kind in ("second_stage", "retrieval"):
        train_stage(built, kind, TrainOptions(is_quick=True))  # type: ignore[arg-type]
    found = evaluate(built, ("click",), lambda what: None, num_seeds=2)
    ranking = found.ranking.mean
    assert set(ranking) == {"second stage", "LightGBM", "popularity", "base rate"}
    assert ranking["LightGBM"]["auc_click"] > 0.7
    assert ranking["second stage"]["auc_click"] > 0.7
    assert ranking["base rate"]["auc_click"] == pytest.approx(0.5)
    assert ranking["base rate"]["ne_click"] == pytest.approx(1.0, abs=0.05)
    assert 0.8 < ranking["second stage"]["calibration_click"] < 1.25
    assert set(found.ranking.spread) == {"second stage", "LightGBM"}
    assert 0 < found.ranking.spread["second stage"]["auc_click"] < 0.1
    assert set(found.retrieval) == {"two-tower", "popularity", "item-to-item", "weighted factorisation"}
    assert all(0 <= v <= 1 for values in found.retrieval.values() for v in values.values())
    tables = record_evaluation(built, found, ("click",))
    assert len(tables) == 2
    assert json.loads((built.workspace.reports / "offline.json").read_text())["queries"] == found.queries


def test_tables_within_a_budget_and_repeated_rows_reach_the_model(built: Settings, tmp_path: Path) -> None:
    from models.bundle import load_bundle
    from training.train import TrainOptions, fit_stage

    options = TrainOptions(is_quick=True, table_megabytes=0.005, upsampled="post_profile__creator_id")
    fitted = fit_stage(built, "second_stage", options)
    owned = [t for t in fitted.spec.tables if t.hashing == "zero_collision"]
    assert owned
    assert sum(t.num_rows * (4 * t.dim + 12) for t in owned) <= 5_000
    assert fitted.metrics["auc_click"] > 0.65
    plain = fit_stage(built, "second_stage", TrainOptions(is_quick=True, table_megabytes=0.005))
    assert all((plain.spec.ids[t.name].owners == fitted.spec.ids[t.name].owners).all() for t in owned)
    loaded = load_bundle(fitted.save(tmp_path, {}))
    for table in owned:
        np.testing.assert_array_equal(loaded.spec.ids[table.name].owners, fitted.spec.ids[table.name].owners)
