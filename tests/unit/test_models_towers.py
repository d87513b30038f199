"""Histories in the user tower, entry by entry and in order."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from core.schema import HEADS
from models.bundle import load_bundle
from models.encode import encode
from models.features import FeatureSpec
from models.metrics import auc
from models.towers import TowerConfig, TwoTower
from tests.planted_examples import NUM_TOPICS, examples, spec_of
from training.fit_retrieval import RetrievalConfig, fit_retrieval
from training.loop import LoopConfig

LOOP = LoopConfig(batch_size=128, max_epochs=4, learning_rate=5e-3, validations_per_epoch=1)
TOWERS = TowerConfig(dim=8, hidden=(16,), history_dim=16)
ENCODERS = ("pooled", "transformer", "hstu")


def by_the_newest_entry(num_rows, seed):
    """A post is clicked where its topic is that of the newest of six entries, which nothing else tells."""
    found, rng = examples(num_rows, seed, True), np.random.default_rng(seed)
    topics = rng.integers(0, NUM_TOPICS, (num_rows, 6))
    columns = found.columns | {
        "history__topic_ids": topics,
        "history__post_ids": np.zeros((num_rows, 6), dtype=np.int64),
        "history__kinds": np.zeros((num_rows, 6), dtype=np.int64),
        "user__taste": np.zeros((num_rows, 6), dtype=np.float32),
        "user__followed": np.full((num_rows, 4), -1),
    }
    labels = np.zeros_like(found.labels)
    chance = np.where(topics[:, 0] == found.columns["post__topic_id"], 0.9, 0.05)
    labels[:, HEADS.index("click")] = rng.random(num_rows) < chance
    return replace(found, columns=columns, labels=labels)


@pytest.mark.parametrize(("encoder", "is_found"), [("none", False), ("transformer", True), ("hstu", True)])
def test_an_encoder_knows_the_order_that_a_mean_forgets(encoder, is_found, tmp_path):
    train, later = by_the_newest_entry(6_000, 1), by_the_newest_entry(2_000, 2)
    run = RetrievalConfig(replace(TOWERS, history_encoder=encoder), LOOP, ("click",))
    fitted = fit_retrieval(train, later, spec_of(train, with_cross=False), run, 0, None, 1)
    bundle = load_bundle(fitted.save(tmp_path, {}))
    scores = (bundle.user_vectors(later.columns) * bundle.post_vectors(later.columns)).sum(1)
    assert (auc(later.labels[:, HEADS.index("click")], scores) > 0.8) == is_found


@pytest.mark.parametrize("encoder", ENCODERS)
def test_training_and_inference_tables_give_the_same_vectors(encoder):
    data = examples(50, 0, True)
    spec = spec_of(data, with_cross=False)
    config = replace(TOWERS, history_encoder=encoder)
    trained, plain = (TwoTower(spec, config, 1, is_training=way) for way in (True, False))
    state = trained.state_dict() | {f"tables.{name}": weight for name, weight in trained.tables.export().items()}
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    user = encode(spec, "user", data.columns)
    torch.testing.assert_close(trained.eval().user_vectors(user), plain.eval().user_vectors(user))


def test_an_encoder_without_a_group_to_read_is_refused():
    data = examples(50, 0, True)
    spec = spec_of(data, with_cross=False)
    loose = FeatureSpec(tuple(replace(f, group="") for f in spec.features))
    with pytest.raises(ValueError, match="names a group"):
        TwoTower(loose, replace(TOWERS, history_encoder="hstu"), 1, is_training=True)
