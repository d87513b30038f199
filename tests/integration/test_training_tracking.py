"""Runs and registry on a real MLflow store."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.errors import TrackingError
from core.settings import Settings
from training.promotion import Standing
from training.tracking import RunRecord, Tracker, flatten, tracking_uri

METRIC = "validation/ne_mean"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(var_dir=tmp_path_factory.mktemp("var"), dataset="tracked")


STARTED_AT = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


@pytest.fixture(scope="module")
def tracker(settings: Settings) -> Tracker:
    return Tracker(settings)


def bundle(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(text)
    return folder


def run(tracker: Tracker, tmp_path: Path, ne: float, kind: str = "second_stage") -> str:
    return tracker.record(
        RunRecord(
            kind=kind,
            config={"loop": {"batch_size": 4096}, "features": {"recall@k": "x"}, "long": "y" * 9_000},
            tags={"bundle_id": "abcdef123456", "data_version": "d1"},
            metrics={METRIC: ne, "test/auc_click": 0.7},
            curves={"curve/valid_loss": [0.5, 0.4, 0.3]},
            artifacts={"bundle": [bundle(tmp_path / "b", "{}")]},
            started_at=STARTED_AT,
        )
    )


def test_a_run_keeps_config_tags_metrics_curves_and_files(settings: Settings, tracker: Tracker, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    run_id = run(tracker, tmp_path, 0.8, kind="kept")
    client = MlflowClient(tracking_uri(settings), tracking_uri(settings))
    found = client.get_run(run_id)
    assert found.info.status == "FINISHED"
    assert found.info.start_time == STARTED_AT.timestamp() * 1000
    assert found.data.params["loop.batch_size"] == "4096"
    assert found.data.params["features.recall_at_k"] == "x"
    assert found.data.tags["model_type"] == "vt_explore_feed_kept"
    assert found.data.tags["dataset"] == "tracked"
    assert found.data.metrics[METRIC] == 0.8
    assert [m.value for m in client.get_metric_history(run_id, "curve/valid_loss")] == [0.5, 0.4, 0.3]
    assert [f.path for f in client.list_artifacts(run_id, "bundle")] == ["bundle/manifest.json"]
    assert (settings.workspace.root / "mlartifacts").is_dir()


def test_champion_and_challenger_follow_the_policy(settings: Settings, tracker: Tracker, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    assert tracker.champion_standing("second_stage") is None
    outcomes = []
    for ne in (0.80, 0.90, 0.79):
        run_id = run(tracker, tmp_path, ne)
        outcomes.append(tracker.register("second_stage", run_id, Standing("d1", {METRIC: ne})))
    assert [o.decision.is_promoted for o in outcomes] == [True, False, True]
    aliases = (
        MlflowClient(tracking_uri(settings), tracking_uri(settings))
        .get_registered_model("vt_explore_feed_second_stage")
        .aliases
    )
    assert {k: str(v) for k, v in aliases.items()} == {"champion": "3", "challenger": "2"}
    champion = tracker.champion_standing("second_stage")
    assert champion is not None
    assert champion.data_version == "d1"
    assert champion.metrics[METRIC] == pytest.approx(0.79)


def test_a_version_points_at_its_bundle_and_carries_no_pickle(
    settings: Settings, tracker: Tracker, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    run_id = run(tracker, tmp_path, 0.5, kind="first_stage")
    made = tracker.register("first_stage", run_id, Standing("d1", {"validation/survival": 0.5}))
    version = MlflowClient(tracking_uri(settings), tracking_uri(settings)).get_model_version(made.model, made.version)
    assert version.source.endswith("/artifacts/bundle")
    assert version.tags["bundle_id"] == "abcdef123456"
    files = [p for p in (settings.workspace.root / "mlartifacts").rglob("*") if p.is_file()]
    assert files
    assert not [p for p in files if p.suffix in (".pkl", ".pickle", ".pt") or p.name == "MLmodel"]


def test_a_second_tracker_finds_the_same_experiment(settings: Settings, tracker: Tracker) -> None:
    assert Tracker(settings)._experiment_id == tracker._experiment_id


def test_mlflow_errors_are_mapped_with_what_to_check(settings: Settings, tracker: Tracker, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="VITRINE_MLFLOW_TRACKING_URI"):
        tracker.register("second_stage", "no-such-run", Standing("d1", {METRIC: 0.1}))
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(TrackingError, match="while recording"):
        tracker.record(RunRecord("second_stage", {}, {}, {}, artifacts={"x": [tmp_path / "missing.png"]}))
    with pytest.raises(TrackingError, match="while opening"):
        Tracker(Settings(var_dir=tmp_path, dataset="d", mlflow_tracking_uri=f"sqlite:///{file}/no/mlflow.db"))


def test_configs_flatten_to_dotted_names() -> None:
    assert flatten({"a": {"b": 1, "c": (1, 2)}, "d": None}) == {"a.b": "1", "a.c": "(1, 2)", "d": "None"}
