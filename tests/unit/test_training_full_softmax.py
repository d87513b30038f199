"""The softmax over all posts: its value by hand, neighbours by hand, and that what is exported is what was trained."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from core.schema import HEADS
from models.encode import encode
from models.features import Feature, FeatureSpec
from models.losses import full_softmax
from models.towers import TowerConfig, TwoTower
from training.examples import Examples
from training.fit_retrieval import POSITIVE, RetrievalConfig, fit_retrieval
from training.full_softmax import FullSoftmax, PostNeighbours
from training.published.pair_towers import POST, USER, pair_spec

USERS = torch.tensor([5, 3, 5, 3, 5])  # two users of many, out of order
POSTS = torch.tensor([7, 7, 1, 2, 1])


@pytest.fixture
def in_float32(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)


def towers(smoothing: float = 0.5) -> tuple[TwoTower, FullSoftmax]:
    torch.manual_seed(0)
    spec = pair_spec(10, 10, 4)
    config = TowerConfig(4, temperature=0.5, is_temperature_learned=False, user_identity=USER, post_identity=POST)
    module = TwoTower(spec, config, 1, is_training=True)
    user, post = encode(spec, "user", {USER: USERS.numpy()}), encode(spec, "post", {POST: POSTS.numpy()})
    rows = torch.arange(5)
    weights = torch.tensor([1.0, 1.0, 1.0, 2.0, 0.0])
    return module, FullSoftmax(module, user, post, rows, rows, weights, smoothing)


def test_value_of_the_loss(in_float32):
    users = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    posts, bias = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), torch.tensor([0.0, -1.0, 0.5])
    # scores of the first user are 1, -1, .5, of the second 0, 1, .5
    first = math.log(math.exp(1) + math.exp(-1) + math.exp(0.5)) - 1
    second = math.log(math.exp(0) + math.exp(1) + math.exp(0.5))
    positives = torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2])
    assert float(full_softmax(users, posts, bias, *positives)) == pytest.approx(
        (first + 2 * second - 1.5) / 3, abs=1e-6
    )
    weighted = full_softmax(users, posts, bias, *positives, torch.tensor([3.0, 1.0, 0.0]))
    assert float(weighted) == pytest.approx((3 * first + second - 1) / 4, abs=1e-6)


@pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="this processor does not multiply bfloat16")
def test_bfloat16_changes_loss_and_gradient_little(monkeypatch):
    torch.manual_seed(0)
    users, posts = 10 * F.normalize(torch.randn(50, 64), dim=1), F.normalize(torch.randn(400, 64), dim=1)
    losses, gradients = [], []
    for is_fast in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda is_fast=is_fast: is_fast)
        leaf = users.clone().requires_grad_()
        loss = full_softmax(leaf, posts, torch.zeros(400), torch.arange(50), torch.arange(50))
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append(leaf.grad.flatten())
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert float(F.cosine_similarity(*gradients, dim=0)) > 0.9999


def test_loss_of_a_batch_is_that_of_its_pairs_one_by_one(in_float32):
    module, softmax = towers()
    users = F.normalize(module.identity_table("user")[softmax.user_rows, :-1], dim=1)
    table = module.identity_table("post")[softmax.post_rows]
    # Users in order of rows are 3 and 5, posts 1, 2 and 7: who engaged with each
    means = torch.stack([users[1], users[0], (users[0] + users[1]) / 2])
    own = F.normalize(table[:, :-1], dim=1)
    posts = F.normalize(own + 0.5 * F.normalize(means, dim=1), dim=1)
    logits = 2 * users @ posts.T + table[:, -1]
    by_pair = -logits.log_softmax(1)
    expected = (by_pair[0, 2] + 2 * by_pair[0, 1] + by_pair[1, 2] + by_pair[1, 0]) / 5
    assert float(softmax.loss(torch.tensor([0, 1])).detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    # A batch of one user, wherever it stands
    alone = (by_pair[1, 2] + by_pair[1, 0]) / 2
    assert float(softmax.loss(torch.tensor([1])).detach()) == pytest.approx(float(alone.detach()), abs=1e-5)


def test_settled_identities_give_the_vectors_that_were_trained(in_float32):
    module, softmax = towers()
    before = float(softmax.loss(torch.tensor([0, 1])).detach())
    softmax.settle()
    still = FullSoftmax(
        module,
        *(
            encode(module.spec, side, {name: ids.numpy()})
            for side, name, ids in (("user", USER, USERS), ("post", POST, POSTS))
        ),
        torch.arange(5),
        torch.arange(5),
        torch.tensor([1.0, 1.0, 1.0, 2.0, 0.0]),
        0.0,
    )
    assert float(still.loss(torch.tensor([0, 1])).detach()) == pytest.approx(before, abs=1e-5)


def test_a_post_without_engagements_stays_where_it_is():
    neighbours = PostNeighbours(torch.tensor([0, 0]), torch.tensor([0, 2]), 3, 2.0)
    near = neighbours.near(torch.tensor([[3.0, 4.0]]))
    assert near.tolist() == [[pytest.approx(1.2), pytest.approx(1.6)], [0, 0], [pytest.approx(1.2), pytest.approx(1.6)]]


def test_users_to_validate_on_need_training_rows():
    module, softmax = towers()
    assert softmax.units_of(encode(module.spec, "user", {USER: np.array([5, 3, 5])})).tolist() == [0, 1]
    with pytest.raises(ValueError, match="no training row"):
        softmax.units_of(encode(module.spec, "user", {USER: np.array([9])}))


def test_what_changes_with_time_is_refused():
    spec = FeatureSpec((*pair_spec(9, 9, 4).features, Feature("user__age", "user", "numeric")))
    network = TowerConfig(4, user_identity=USER, post_identity=POST)
    labels = np.full((2, len(HEADS)), np.nan, dtype=np.float32)
    labels[:, HEADS.index("click")] = 1.0
    ids, columns = np.arange(2), {USER: np.arange(2), POST: np.arange(2), "user__age": np.ones(2)}
    rows = Examples(columns, labels, ids, ids, ids, ids.astype(float))
    config = RetrievalConfig(network, tasks=(POSITIVE,), pointwise_weight=0.0, softmax_over="all")
    with pytest.raises(ValueError, match="user tower reads other features"):
        fit_retrieval(rows, rows, spec, config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"softmax_over": "all"}, "pointwise_weight to 0"),
        ({"smoothing": 0.5}, "smoothing is for"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RetrievalConfig(**settings)
