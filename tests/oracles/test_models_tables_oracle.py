"""TorchRec tables against their plain twin and against loops; target attention against loops."""

import numpy as np
import pytest
import torch

from models.embeddings import EntryTables, PlainTables, PooledTables, export_state
from models.encode import encode
from models.features import Feature, FeatureSpec
from models.history import TargetAttention
from models.inputs import indexed_rows
from models.losses import sampled_softmax
from models.request_grid import request_grid
from models.second_stage import CrossLayers
from tests.planted_examples import examples, spec_of


@pytest.fixture(scope="module")
def rows():
    torch.manual_seed(0)
    data = examples(40, 4, True)
    spec = spec_of(data)
    found = {}
    for side in ("user", "post"):
        found |= indexed_rows(spec, side, encode(spec, side, data.columns))
    return spec, found


def plain_twin(spec, tables):
    twin = PlainTables(spec)
    twin.load_state_dict(tables.export())
    return twin


def test_pooling_is_the_mean_over_what_is_there(rows):
    spec, found = rows
    tables = PooledTables(spec)
    pooled, twin = tables.pool(found), plain_twin(spec, tables).pool(found)
    weights = tables.export()
    table_of = {name: t.name for t in spec.tables for name in t.features}
    for name, rows_BL in found.items():
        weight = weights[f"weights.{table_of[name]}.weight"]
        for i, entries in enumerate(rows_BL.tolist()):
            there = [weight[e] for e in entries if e >= 0]
            expected = torch.stack(there).mean(0) if there else torch.zeros(weight.shape[1])
            torch.testing.assert_close(pooled[name][i], expected, atol=1e-6, rtol=0)
            torch.testing.assert_close(twin[name][i], expected, atol=1e-6, rtol=0)


def test_pooling_some_features_is_pooling_all(rows):
    spec, found = rows
    tables = PooledTables(spec)
    alone = tables.pool({"post__post_id": found["post__post_id"]})
    torch.testing.assert_close(alone["post__post_id"], tables.pool(found)["post__post_id"])


def test_entries_are_rows_of_the_table(rows):
    spec, found = rows
    tables = EntryTables(spec)
    entries, twin = tables.embed(found), plain_twin(spec, tables).embed(found)
    for name in found:
        torch.testing.assert_close(entries[name], twin[name], atol=0, rtol=0)
    weight = tables.export()["weights.post.weight"]
    torch.testing.assert_close(entries["post__post_id"][:, 0], weight[found["post__post_id"][:, 0].long()])


def test_a_large_table_has_sparse_gradients_and_the_same_vectors():
    spec = FeatureSpec((Feature("id", "user", "categorical", table="big", num_rows=600_000, dim=8),))
    tables = PooledTables(spec)
    tables.pool({"id": torch.tensor([[3], [5]], dtype=torch.int32)})["id"].sum().backward()
    gradient = next(tables.parameters()).grad
    assert gradient is not None
    assert gradient.is_sparse
    assert sorted(gradient.coalesce().indices()[0].tolist()) == [3, 5]


def test_export_is_a_copy(rows):
    spec, _ = rows
    module = torch.nn.Module()
    module.tables = PooledTables(spec)
    state = export_state(module)
    state["tables.weights.post.weight"].zero_()
    assert module.tables.export()["weights.post.weight"].abs().sum() > 0


def test_target_attention_equals_loops(rows):
    spec, found = rows
    torch.manual_seed(1)
    group = tuple(f for f in spec.side("user", "sequence") if f.group == "history")
    block, tables = TargetAttention(spec, group), PlainTables(spec)
    with torch.no_grad():
        block.scale_D.copy_(torch.randn(16))
        vectors = tables.embed(found)
        got = block(vectors, found, request_grid(None, 40, 40))
        shift = block.shift["0"]
        for i in range(40):
            count = int((found["history__post_ids"][i] >= 0).sum())
            target = torch.cat([vectors["post__post_id"][i, 0], vectors["post__topic_id"][i, 0]])
            if count == 0:
                assert got[i].abs().sum() == 0
                continue
            keys = [
                torch.cat([vectors["history__post_ids"][i, j], vectors["history__topic_ids"][i, j]])
                for j in range(count)
            ]
            logits = torch.stack(
                [
                    (k * block.scale_D * target).sum() + shift(vectors["history__kinds"][i, j])[0]
                    for j, k in enumerate(keys)
                ]
            )
            pooled = sum(w * k for w, k in zip(logits.softmax(0), keys, strict=True))
            same = [
                np.mean([int(found[s][i, j] == found[t][i, 0]) for j in range(count)])
                for s, t in (("history__post_ids", "post__post_id"), ("history__topic_ids", "post__topic_id"))
            ]
            expected = torch.cat([pooled, pooled * target, torch.tensor(same, dtype=torch.float32)])
            torch.testing.assert_close(got[i], expected, atol=1e-5, rtol=1e-4)


def test_cross_layers_follow_the_formula():
    torch.manual_seed(0)
    layers = CrossLayers(5, 2, 2)
    x0 = torch.randn(3, 5)
    x = x0
    for down, up in zip(layers.down, layers.up, strict=True):
        x = x0 * ((up.weight @ down.weight @ x.T).T + up.bias) + x
    torch.testing.assert_close(layers(x0), x, atol=1e-6, rtol=1e-5)


def test_log_q_correction_recovers_the_full_softmax_in_expectation():
    """Negatives drawn by q and corrected by log q estimate the softmax over the whole catalogue."""
    generator = torch.Generator().manual_seed(0)
    posts = torch.randn(50, 4, generator=generator)
    users = torch.randn(1, 4, generator=generator)
    q = torch.rand(50, generator=generator) ** 3 + 1e-3
    q /= q.sum()
    full = -(users @ posts.T).log_softmax(1)[0, 0]
    # Of a batch, the target itself and n draws from q; the draws' corrected mass estimates the partition function.
    draws = torch.multinomial(q, 200_000, replacement=True, generator=generator)
    draws = draws[draws != 0]
    ids = torch.cat([torch.tensor([0]), draws])
    log_q = torch.cat([torch.zeros(1), (q[draws] * 200_000).log()])
    estimate = sampled_softmax(users, posts[ids], torch.tensor([0]), log_q, torch.arange(len(ids)))
    assert abs(float(estimate - full)) < 0.02
