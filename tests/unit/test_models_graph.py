"""The exported graph gives what the torch module gives, for whatever one user and N posts hold."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from core.errors import BundleError
from core.schema import HEADS
from models.bundle import load_bundle, save_bundle
from models.calibration import Calibrator
from models.encode import EncodedSide, blank_side
from models.features import Feature, FeatureSpec
from models.graph import export_graph
from models.second_stage import SecondStage, SecondStageConfig
from models.towers import TowerConfig, TwoTower

GROUPED = {"group": "history", "length": 6}
FEATURES = (
    Feature("history_creators", "user", "sequence", table="creator", num_rows=32, dim=4, **GROUPED),
    Feature("history_kinds", "user", "sequence", table="kind", num_rows=8, dim=4, **GROUPED),
    Feature("topics", "user", "sequence", table="topic", num_rows=16, dim=4, length=3),
    Feature("num_follows", "user", "numeric", "log1p"),
    Feature("country", "user", "categorical", table="country", num_rows=16, dim=4),
    Feature("codes", "post", "codes", table="code", num_rows=16, dim=4, length=2),
    Feature("creator", "post", "categorical", table="creator", num_rows=32, dim=4),
    Feature("age", "post", "numeric"),
    Feature("affinity", "cross", "numeric"),
)
SPEC = FeatureSpec(FEATURES)
HASHED = FeatureSpec(tuple(replace(f, hashing="multi", num_rows=64) if f.table == "creator" else f for f in FEATURES))


def sides(spec, num_posts, absent, seed=0):
    """User, post and cross sides of chance; `absent` is the share of entries that are not there."""
    draw = torch.Generator().manual_seed(seed)

    def filled(side, rows):
        found = blank_side(spec, side, rows).tensors()
        for name, tensor in found.items():
            if tensor.dtype == torch.int32:
                # Rows that every table has.
                tensor.random_(0, 8, generator=draw)
                if name != "ids" or side == "post":
                    tensor[torch.rand(tensor.shape, generator=draw) < absent] = -1
            else:
                tensor.normal_(generator=draw)
        return EncodedSide.of_tensors(found)

    return filled("user", 1), filled("post", num_posts), filled("cross", num_posts)


def saved(folder, kind, module, spec, config, heads, **fields):
    bundle_id = save_bundle(
        folder, kind, module, spec, config, heads, [Calibrator()] * len(heads), {}, {}, has_graph=True, **fields
    )
    return load_bundle(folder / bundle_id)


def second_stage(spec=SPEC, **shape):
    torch.manual_seed(1)
    config = SecondStageConfig(cross_rank=4, trunk=(8, 8), head_hidden=4, history_length=6, history_dim=8, **shape)
    return SecondStage(spec, config, is_training=False), config


def two_tower(spec=SPEC, **shape):
    torch.manual_seed(1)
    config = TowerConfig(dim=8, hidden=(8,), history_dim=8, **shape)
    return TwoTower(spec, config, 1, is_training=False), config


@pytest.mark.parametrize("spec", [SPEC, HASHED], ids=["plain", "multi-hash"])
@pytest.mark.parametrize("history_encoder", ["none", "pooled", "transformer", "hstu"])
def test_a_users_vector_is_that_of_the_module(tmp_path, spec, history_encoder):
    module, config = two_tower(spec, history_encoder=history_encoder)
    bundle = saved(tmp_path, "retrieval", module, spec, config, ("click",))
    for absent in (0.0, 0.5, 1.0):
        user, _, _ = sides(spec, 1, absent)
        with torch.inference_mode():
            wanted = bundle.module.user_vectors(user).numpy()
        np.testing.assert_allclose(bundle.graph.run({"user": user.arrays()}), wanted, atol=1e-5)


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"num_networks": 2, "history_encoder": "pooled"},
        {"trunk_kind": "mmoe", "history_encoder": "transformer"},
        {"trunk_kind": "ple", "num_experts": 1, "history_encoder": "hstu"},
    ],
    ids=["shared", "networks", "mmoe", "ple"],
)
def test_logits_of_any_number_of_posts_are_those_of_the_module(tmp_path, shape):
    module, config = second_stage(**shape)
    bundle = saved(tmp_path, "second_stage", module, SPEC, config, HEADS)
    for num_posts, absent in ((2, 0.0), (3, 1.0), (40, 0.5)):
        user, post, cross = sides(SPEC, num_posts, absent)
        with torch.inference_mode():
            wanted = bundle.module(user, post, cross).numpy()
        found = bundle.graph.run({"user": user.arrays(), "post": post.arrays(), "cross": cross.arrays()})
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_equal_weights_give_equal_bytes_without_names_of_files(tmp_path):
    first, again = (export_graph(second_stage()[0].eval(), SPEC) for _ in range(2))
    assert first == again
    assert b".py" not in first


def test_tables_too_large_are_left_to_the_module(monkeypatch):
    monkeypatch.setattr("models.graph.MAX_TABLE_BYTES", 4 * 32 * 4)
    assert export_graph(two_tower()[0].eval(), SPEC) is None


def test_a_graph_that_was_altered_is_refused(tmp_path):
    module, config = two_tower()
    bundle = saved(tmp_path, "retrieval", module, SPEC, config, ("click",))
    file = tmp_path / bundle.bundle_id / "graph.onnx"
    assert json.loads((file.parent / "manifest.json").read_text())["graph_sha256"]
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"\0")
    with pytest.raises(BundleError, match=r"graph\.onnx does not match its checksum"):
        load_bundle(file.parent)
    file.unlink()
    with pytest.raises(BundleError, match=r"graph\.onnx cannot be read"):
        load_bundle(file.parent)
