"""Operations and parameters of small networks, counted by hand."""

import torch
from torch.nn import functional as F

from models.bundle import read_manifest, save_bundle
from models.cost import cost_of, forward_flops
from models.features import Feature, FeatureSpec
from models.second_stage import SecondStage, SecondStageConfig
from models.towers import TowerConfig, TwoTower

SPEC = FeatureSpec(
    (
        Feature("age", "user", "numeric"),
        Feature("country", "user", "categorical", table="country", num_rows=10, dim=3),
        Feature("seen", "user", "sequence", table="post", num_rows=100, dim=4, length=5),
        Feature("topic", "post", "categorical", table="post", num_rows=100, dim=4),
    )
)


def test_towers_count_their_layers_and_one_product(tmp_path):
    config = TowerConfig(dim=8, hidden=(16,))
    module = TwoTower(SPEC, config, 1, is_training=True)
    bundle_id = save_bundle(tmp_path, "retrieval", module, SPEC, config, ("click",), (), {}, {})
    user = 2 * (1 + 3 + 4) * 16 + 2 * 16 * 8 + 2 * 16  # hidden layer, vector, bias
    post = 2 * 4 * 16 + 2 * 16 * 8 + 2 * 16
    of_user = (8 * 16 + 16) + (16 + 16) + (16 * 8 + 8) + (16 + 1)  # layer, norm, vector, bias
    of_post = (4 * 16 + 16) + (16 + 16) + (16 * 8 + 8) + (16 + 1)
    assert read_manifest(tmp_path / bundle_id)["cost"] == {
        "flops_per_example": user + post + 2 * 9,
        "table_bytes_per_example": 4 * (3 + 5 * 4 + 4),
        "table_parameters": 10 * 3 + 100 * 4,
        "dense_parameters": of_user + of_post + 3,  # temperature, and scale and bias of the task
    }


def test_every_network_of_a_second_stage_counts():
    spec = FeatureSpec((Feature("age", "user", "numeric"), Feature("length", "post", "numeric")))
    one, three = (SecondStage(spec, SecondStageConfig(num_networks=number), is_training=False) for number in (1, 3))
    cost = cost_of(one, spec, one)
    more = cost_of(three, spec, three)
    assert more.flops_per_example == 3 * cost.flops_per_example > 0
    assert more.dense_parameters == 3 * cost.dense_parameters


def test_attention_counts_both_products():
    rows = torch.zeros(1, 2, 7, 8)  # heads, entries, width
    assert forward_flops(lambda: F.scaled_dot_product_attention(rows, rows, rows)) == 2 * (2 * 2 * 7 * 7 * 8)
