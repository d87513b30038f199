"""Baselines of retrieval on pairs of ids, as rankers: popularity, item-to-item, item2vec, weighted factorisation."""

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from models.encode import encode
from models.towers import TwoTower
from training.baselines import ItemToItem
from training.factorisation import factorise
from training.published.full_ranking import Int64s, Ranker, top_places
from training.published.pair_towers import POST, USER, context_config, fit_pairs, mean_vectors
from training.published.pairs import Pairs, PairSplit


def pair_baselines(split: PairSplit, seed: int, is_quick: bool, num_threads: int) -> dict[str, Callable[[], Ranker]]:
    """What fits each baseline, by its name."""
    return {
        "popularity": lambda: popularity(split),
        "item-to-item": lambda: item_to_item(split),
        "item2vec": lambda: item2vec(split, seed, is_quick, num_threads),
        "weighted factorisation": lambda: weighted_factorisation(split, seed),
    }


def popularity(split: PairSplit) -> Ranker:
    """The most engaged posts, for everyone."""
    order = np.argsort(-np.bincount(split.train.posts, minlength=split.num_posts), kind="stable")
    return lambda users, num_places: np.tile(order[:num_places], (len(users), 1))


def item_to_item(split: PairSplit) -> Ranker:
    """Sum of cosines to the user's posts."""
    neighbours = ItemToItem(split.train.users, split.train.posts, np.arange(split.num_posts))
    starts, posts = split.train.by_user(split.num_users)
    counts = np.diff(starts)

    def scores(users: Int64s) -> NDArray[np.float32]:
        places = np.arange(max(int(counts[users].max()), 1))
        at = np.minimum(starts[users][:, None] + places, len(posts) - 1)
        return neighbours.scores(np.where(places < counts[users][:, None], posts[at], -1))

    return _by_scores(scores)


def item2vec(split: PairSplit, seed: int, is_quick: bool, num_threads: int = 2) -> Ranker:
    """Skip-gram on posts of the same user, by the two-tower trainer; a user is the mean of their posts' vectors.

    Source: Barkan and Koenigstein, Item2Vec, 2016.
    """
    starts, posts = split.train.by_user(split.num_users)
    contexts = _contexts(starts, posts, seed)
    config = context_config(len(contexts), split.num_posts, is_quick)
    fitted = fit_pairs(contexts, split.num_posts, split.num_posts, config, seed, num_threads=num_threads)
    every = np.arange(split.num_posts)
    towers = cast(TwoTower, fitted.module)
    with torch.inference_mode():
        contexts_PD = towers.user_vectors(encode(fitted.spec, "user", {USER: every})).numpy()
        posts_PD = towers.post_vectors(encode(fitted.spec, "post", {POST: every})).numpy()
    users_UD = mean_vectors(contexts_PD, starts, posts)
    return _by_scores(lambda users: users_UD[users] @ posts_PD.T)


def weighted_factorisation(split: PairSplit, seed: int) -> Ranker:
    """Alternating least squares with a gravity term."""
    users_UD, posts_PD = factorise(split.train.users, split.train.posts, split.num_users, split.num_posts, seed=seed)
    return _by_scores(lambda users: users_UD[users] @ posts_PD.T)


def _contexts(starts: Int64s, posts: Int64s, seed: int) -> Pairs:
    """Each pair's post with another post of the same user, by chance."""
    rng = np.random.default_rng(seed)
    counts = np.repeat(np.diff(starts), np.diff(starts))
    firsts = np.repeat(starts[:-1], np.diff(starts))
    place = np.arange(len(posts)) - firsts
    step = 1 + (rng.random(len(posts)) * (counts - 1)).astype(np.int64)
    other = firsts + (place + step) % counts
    return Pairs(posts, posts[other]).take(counts > 1)


def _by_scores(scores: Callable[[Int64s], NDArray[np.float32]]) -> Ranker:
    return lambda users, num_places: top_places(scores(users), num_places)
