import json

import numpy as np
import pytest
import torch

from core.errors import MissingStageError
from core.settings import Settings
from models.bundle import load_bundle, save_bundle
from models.features import Feature, fit_spec
from models.fit_ids import fit_ids
from models.towers import TowerConfig, TwoTower
from training.fit_retrieval import RetrievalConfig
from training.publish import champion_bundle
from training.recipes import Recipe
from training.shared_codes import shared_codes

COLUMNS = {
    "content": np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32),
    "who": np.zeros(200, dtype=np.int64),
}
FEATURES = (
    Feature("code", "post", "categorical", table="code", num_rows=300, dim=4, source="content", level=1),
    Feature("who", "user", "categorical", table="who", num_rows=9, dim=4),
)


def recipe(kind):
    return Recipe(kind, "semantic", FEATURES, RetrievalConfig(), "sampling", 0)


@pytest.fixture
def settings(tmp_path):
    return Settings(var_dir=tmp_path)


def test_before_retrieval_was_trained_there_is_nothing_to_share(settings):
    with pytest.raises(MissingStageError):
        champion_bundle(settings, "retrieval")
    assert shared_codes(settings, recipe("second_stage")).bundle_id == ""


def test_later_stages_get_the_codebook_and_the_rows_of_retrieval(settings):
    config = TowerConfig(dim=4, hidden=(4,))
    spec = fit_ids(fit_spec(FEATURES, COLUMNS), COLUMNS)
    parent = settings.workspace.bundles / "retrieval"
    module = TwoTower(spec, config, 1, is_training=True)
    bundle_id = save_bundle(parent, "retrieval", module, spec, config, ["click"], [], {}, {})
    (parent / "champion.json").write_text(json.dumps({"bundle_id": bundle_id}))
    shared = shared_codes(settings, recipe("second_stage"))
    assert shared.bundle_id == bundle_id
    assert list(shared.tables) == ["code"]
    saved = load_bundle(parent / bundle_id)
    torch.testing.assert_close(shared.tables["code"], saved.module.tables.weight("code"))
    np.testing.assert_array_equal(shared.codebooks["content"], spec.codebooks["content"])
    assert shared_codes(settings, recipe("retrieval")).bundle_id == ""
