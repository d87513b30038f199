"""Towers on ids alone: planted groups of users and posts must be found, by every model that has nothing but pairs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from core.settings import Settings
from models.features import Feature, FeatureSpec
from models.metrics import auc
from models.towers import TowerConfig, TwoTower
from training.factorisation import FactorisationConfig, factorise
from training.fit_retrieval import RetrievalConfig
from training.published.full_ranking import full_ranking
from training.published.outcome import Outcome, SeedRun
from training.published.pair_baselines import item2vec, item_to_item, popularity
from training.published.pair_benchmark import benchmark_pairs
from training.published.pair_towers import POST, USER, ServedPairs, fit_pairs, pair_config, pair_spec
from training.published.pairs import Pairs, PairSplit
from training.spectral import spectral_vectors

NUM_USERS, NUM_POSTS, NUM_GROUPS = 200, 100, 5


def planted(is_planted: bool = True, seed: int = 0) -> PairSplit:
    """Users engage with 12 posts of their own group of 20, or of all; two more are for the test."""
    rng = np.random.default_rng(seed)
    train, test = [], []
    for user in range(NUM_USERS):
        posts = np.flatnonzero(np.arange(NUM_POSTS) % NUM_GROUPS == user % NUM_GROUPS)
        chosen = rng.permutation(posts if is_planted else NUM_POSTS)[:14]
        train += [(user, post) for post in chosen[:12]]
        test += [(user, post) for post in chosen[12:]]
    parts = (Pairs(*np.array(part).T) for part in (train, test))
    return PairSplit(np.arange(NUM_USERS), np.arange(NUM_POSTS), *parts)


def small_config():
    config = pair_config(12 * NUM_USERS, NUM_USERS)
    return replace(config, network=replace(config.network, dim=8))


def recall(split, ranker):
    return full_ranking(split, ranker, k=8)["recall@8"]


@pytest.mark.parametrize("fit", [item_to_item, lambda split: item2vec(split, 0, True)])
def test_baselines_find_planted_groups(fit):
    split = planted()
    assert recall(split, fit(split)) > 0.9
    assert recall(split, popularity(split)) < 0.35


def test_factorisation_finds_planted_groups_and_nothing_where_nothing_is():
    for is_planted, least, most in ((True, 0.9, 1.0), (False, 0.0, 0.2)):
        split = planted(is_planted)
        users, posts = factorise(
            split.train.users, split.train.posts, NUM_USERS, NUM_POSTS, FactorisationConfig(dim=8, num_sweeps=5)
        )
        ranker = lambda rows, n, u=users, p=posts: np.argsort(-(u[rows] @ p.T), axis=1)[:, :n]  # noqa: E731
        assert least <= recall(split, ranker) <= most


def test_factorisation_minimises_its_loss():
    """At the end neither side's gradient of the stated loss is far from zero for the side solved last."""
    split, config = planted(), FactorisationConfig(dim=4, num_sweeps=3)
    users, posts = (
        torch.tensor(v, dtype=torch.float64, requires_grad=True)
        for v in factorise(split.train.users, split.train.posts, NUM_USERS, NUM_POSTS, config)
    )
    scores = users @ posts.T
    observed = scores[split.train.users, split.train.posts]
    counts = np.bincount(split.train.posts, minlength=NUM_POSTS)
    strength = config.regularisation * (counts + config.gravity * NUM_USERS) ** config.frequency_power
    loss = (observed - 1).square().sum() + config.gravity * scores.square().sum()
    loss = loss + (torch.from_numpy(strength)[:, None] * posts.square()).sum()
    (gradient,) = torch.autograd.grad(loss, posts)
    assert gradient.abs().max() < 1e-3


def test_codes_of_posts_place_a_post_that_nobody_engaged_with():
    split = planted()
    is_known = split.train.posts != 0
    topics = np.arange(NUM_POSTS) % NUM_GROUPS
    users, posts = factorise(
        split.train.users[is_known],
        split.train.posts[is_known],
        NUM_USERS,
        NUM_POSTS,
        FactorisationConfig(dim=8, num_sweeps=5),
        post_codes=[topics],
    )
    is_own = (np.arange(NUM_USERS) % NUM_GROUPS == 0).astype(np.float32)
    assert auc(is_own, users @ posts[0]) > 0.75


def test_spectral_vectors_of_one_group_point_one_way():
    split = planted()
    users, posts = spectral_vectors(
        split.train.users, split.train.posts, NUM_USERS + 1, NUM_POSTS, NUM_GROUPS, damping=0.0
    )
    group = np.arange(NUM_POSTS) % NUM_GROUPS
    similar = users[:NUM_USERS] @ posts.T
    is_own = (np.arange(NUM_USERS) % NUM_GROUPS)[:, None] == group
    assert similar[is_own].min() > 0.9
    assert similar[~is_own].max() < 0.3
    assert np.abs(users[NUM_USERS]).max() == 0


def test_towers_on_ids_find_planted_groups_through_bundle_and_index(tmp_path):
    split = planted()
    fitted = fit_pairs(split.train, NUM_USERS, NUM_POSTS, small_config(), 0)
    served = ServedPairs.of(fitted, tmp_path, NUM_POSTS)
    assert recall(split, served.ranker()) > 0.9
    assert served.vector_bytes() == 4 * 9


def test_the_exported_vectors_are_at_most_256_wide():
    assert pair_config(24, 2).network.dim + 1 == 256


def test_without_engagements_to_learn_from_the_recall_is_that_of_chance(tmp_path):
    split = planted(is_planted=False)
    fitted = fit_pairs(split.train, NUM_USERS, NUM_POSTS, small_config(), 0)
    assert recall(split, ServedPairs.of(fitted, tmp_path, NUM_POSTS).ranker()) < 0.2


def test_an_identity_of_the_wrong_width_is_refused():
    features = [
        Feature(USER, "user", "categorical", table="users", num_rows=9, dim=4),
        *pair_spec(3, 3, 4).side("post"),
    ]
    with pytest.raises(ValueError, match="identity pair__user of the user tower"):
        TwoTower(
            FeatureSpec(tuple(features)), TowerConfig(4, user_identity=USER, post_identity=POST), 1, is_training=False
        )


def test_the_benchmark_command_reports_every_model_and_keeps_runs_in_mlflow(tmp_path):
    from mlflow import MlflowClient

    split = planted()
    for name, pairs in (("train", split.train), ("test", split.test)):
        starts, posts = pairs.by_user(NUM_USERS)
        lines = [f"{u} {' '.join(map(str, posts[starts[u] : starts[u + 1]]))}" for u in range(NUM_USERS)]
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    settings = Settings(var_dir=tmp_path / "var", dataset="planted")
    outcome = benchmark_pairs(settings, tmp_path, 2, lambda *_: None, is_quick=True, is_tuning=False)
    found = outcome.as_json()
    assert set(found["baselines"]) == {"popularity", "item-to-item", "item2vec", "weighted factorisation"}
    assert set(found["metrics"]) == {"recall@20", "ndcg@20"}
    assert set(found["metrics"]["recall@20"]) == {"mean", "sd"}
    assert found["peak_bytes"] > 1e7
    client = MlflowClient(f"sqlite:///{settings.workspace.root / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "vitrine/planted"]
    assert len(client.search_runs([experiment.experiment_id])) == 6


def test_a_spectral_start_without_identities_is_refused():
    with pytest.raises(ValueError, match="name user_identity and post_identity"):
        RetrievalConfig(spectral_damping=5.0)


def test_one_seed_shows_no_spread():
    runs = {
        "ours": [SeedRun({"hr@10": 0.1}, 1.0), SeedRun({"hr@10": 0.2}, 1.0)],
        "other": [SeedRun({"hr@10": 0.3}, 1.0)],
    }
    cells = [column._cells for column in Outcome("planted", runs).table().columns]
    assert cells[1] == ["2", "1"]
    assert cells[2] == ["0.1500 ± 0.0707", "0.3000"]
