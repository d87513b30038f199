import numpy as np
import pytest
import torch

from models.encode import encode
from models.losses import sampled_softmax
from models.towers import TowerConfig, TwoTower
from tests.planted_examples import examples, spec_of
from training.fit_retrieval import RetrievalConfig, fit_retrieval
from training.hard_negatives import HardNegatives, MinedPosts
from training.loop import LoopConfig

TOWERS = TowerConfig(dim=8, hidden=(16,))


@pytest.fixture(scope="module")
def data():
    return examples(900, 0, True)


def mined(data, module, config):
    spec, rows = module.spec, np.arange(data.num_rows)
    positives = data.labels[:, 0] > 0.5
    sides = encode(spec, "user", data.columns), encode(spec, "post", data.columns)
    return MinedPosts(module, *sides, rows, data.user_ids, data.post_ids, positives, config, 3), positives


def test_mined_posts_rank_in_the_wanted_places_and_were_never_engaged_with(data):
    torch.manual_seed(0)
    module = TwoTower(spec_of(data, False), TOWERS, 1, is_training=True)
    found, positives = mined(data, module, HardNegatives(3, 2, 20))
    found.renew(0)
    assert (found.rows_RK == -1).all()
    found.renew(1)
    rows_RK = found.rows_RK.numpy()
    assert ((rows_RK >= 0).all(1) == positives).all()
    # The oracle: every post's newest row, scored one user at a time.
    newest = {int(post): row for row, post in enumerate(data.post_ids)}
    users = module.user_vectors(encode(module.spec, "user", data.columns)).detach().numpy()
    posts = module.post_vectors(encode(module.spec, "post", data.columns)).detach().numpy()
    for row in np.flatnonzero(positives)[:60]:
        liked = set(data.post_ids[(data.user_ids == data.user_ids[row]) & positives].tolist())
        others = [newest[post] for post in newest if post not in liked]
        ranked = sorted(others, key=lambda r: -float(users[row] @ posts[r]))
        assert set(rows_RK[row].tolist()) <= set(ranked[2:20])
        assert len(set(rows_RK[row].tolist())) == 3


def test_hard_negatives_stand_against_their_own_user_alone():
    """Two users, two posts of a batch, logits 0 but one hard logit of log 2: shares 1/4 and 1/2."""
    zeros, hard = torch.zeros(2, 3), torch.tensor([[2.0], [0.0]]).log()
    loss = sampled_softmax(zeros, zeros, torch.arange(2), torch.zeros(2), torch.arange(2), None, hard)
    assert float(loss) == pytest.approx((np.log(4) + np.log(2)) / 2)


def test_they_join_the_softmax_from_the_second_epoch_on(data):
    loop = LoopConfig(batch_size=100, max_epochs=2, validations_per_epoch=1)
    hard = HardNegatives(4, 0, 30)
    losses = [
        [entry["train_loss"] for entry in fit_retrieval(data, data, spec_of(data, False), run, 0, None, 1).history]
        for run in (RetrievalConfig(TOWERS, loop), RetrievalConfig(TOWERS, loop, hard_negatives=hard))
    ]
    assert losses[1][0] == losses[0][0]
    assert losses[1][1] > losses[0][1] + 0.01


def test_a_mined_post_counts_for_all_of_its_ranks(data):
    """Two of eight ranks are drawn, so each stands for four posts: among 100 places its share is 1/400."""
    module = TwoTower(spec_of(data, False), TOWERS, 1, is_training=True)
    found, _ = mined(data, module, HardNegatives(2, 2, 10))
    assert found.log_chance(100) == pytest.approx(np.log(2 / 8 / 100))


def test_ranks_that_hold_too_few_are_refused():
    with pytest.raises(ValueError, match="wants 5 posts of ranks 10 to 12"):
        HardNegatives(5, 10, 12)
    with pytest.raises(ValueError, match="softmax_weight"):
        RetrievalConfig(softmax_weight=0.0, hard_negatives=HardNegatives())
