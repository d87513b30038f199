"""The scratch workspace of a retraining shares what does not depend on the seed and nothing else."""

import pytest

from core.errors import MissingStageError
from core.workspace import Workspace
from operations.retrain import SHARED, share


@pytest.fixture
def source(tmp_path):
    workspace = Workspace(tmp_path / "var" / "world")
    for name in SHARED:
        path = workspace.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch() if path.suffix else path.mkdir()
    for table in ("impressions", "candidates"):
        (workspace.log / table).mkdir(parents=True)
    return workspace


@pytest.fixture
def scratch(tmp_path):
    return Workspace(tmp_path / "scratch" / "world")


def test_log_features_and_truth_are_shared(source, scratch):
    share(source, scratch)
    (source.features / "user_activity").mkdir(parents=True)
    assert (scratch.features / "user_activity").is_dir()
    assert (scratch.log / "impressions").resolve() == source.log / "impressions"
    assert scratch.manifest_path.exists()


def test_candidates_models_and_index_are_not_shared(source, scratch):
    share(source, scratch)
    assert not (scratch.log / "candidates").exists()
    (scratch.log / "candidates").mkdir()
    scratch.bundles.mkdir()
    scratch.index.mkdir()
    assert not (source.bundles).exists()
    assert list((source.log / "candidates").iterdir()) == []
    assert not scratch.log.is_symlink()


def test_a_pipeline_that_did_not_run_is_named(source, scratch):
    (source.root / "training_sets" / "retrieval").rmdir()
    with pytest.raises(MissingStageError, match="make pipeline"):
        share(source, scratch)
