from datetime import UTC, datetime, timedelta

import pytest

from core.clock import WallClock
from core.errors import InputError, MissingStageError
from core.settings import Settings
from core.workspace import DatasetManifest, Workspace

AT = datetime(2026, 3, 15, tzinfo=UTC)


def manifest(anchor_at):
    return DatasetManifest("shop", "own", "abc", anchor_at, AT - timedelta(days=14), AT, {"users": 3}, {})


def test_a_manifest_reads_back_as_written(tmp_path):
    workspace = Workspace(tmp_path)
    for anchor_at in (AT, None):
        workspace.write_manifest(manifest(anchor_at))
        assert workspace.manifest() == manifest(anchor_at)


def test_past_data_anchors_the_clock_at_its_end(tmp_path):
    workspace = Workspace(tmp_path)
    workspace.write_manifest(manifest(AT))
    assert AT <= workspace.clock().now() < AT + timedelta(seconds=60)
    assert isinstance(workspace.clock("wall"), WallClock)


def test_live_data_runs_on_the_wall(tmp_path):
    workspace = Workspace(tmp_path)
    workspace.write_manifest(manifest(None))
    assert isinstance(workspace.clock(), WallClock)


def test_a_missing_dataset_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(MissingStageError, match="make data DATASET=shop"):
        Workspace(tmp_path / "shop").manifest()


def test_a_broken_manifest_is_an_input_error(tmp_path):
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(InputError, match=r"dataset\.json"):
        Workspace(tmp_path).manifest()


def test_settings_place_the_workspace_and_hide_secrets(monkeypatch, tmp_path):
    monkeypatch.setenv("VITRINE_VAR_DIR", str(tmp_path))
    monkeypatch.setenv("VITRINE_DATASET", "shop")
    monkeypatch.setenv("VITRINE_REDIS_URL", "redis://:hunter2@127.0.0.1:1/0")
    settings = Settings()
    assert settings.workspace.root == tmp_path.resolve() / "shop"
    assert "hunter2" not in repr(settings)
