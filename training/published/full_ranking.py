"""The protocol of the pair splits: rank every post but those of a user's train pairs, look at the first K.

Recall@K is the share of a user's test posts found; NDCG@K divides by the best order of min(K, test posts).
Both are means over users with test posts. Source: BARS-Match, Zhu et al., SIGIR 2022.
Legend: B users, P posts, K places.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from training.published.pairs import PairSplit

Int64s = NDArray[np.int64]
Ranker = Callable[[Int64s, int], Int64s]
"""The first posts [B, n] for users [B], best first, -1 where there are no more; seen posts not left out."""

USER_BATCH = 1_024


def full_ranking(split: PairSplit, ranker: Ranker, k: int = 20) -> dict[str, float]:
    """`recall@k` and `ndcg@k` of a ranker on the test part."""
    train_starts, train_posts = split.train.by_user(split.num_users)
    test_starts, test_posts = split.test.by_user(split.num_users)
    num_seen, num_wanted = np.diff(train_starts), np.diff(test_starts)
    users = np.flatnonzero(num_wanted)
    users = users[np.argsort(num_seen[users], kind="stable")]  # users alike in length ask for equally many
    recalls, gains = [], []
    for start in range(0, len(users), USER_BATCH):
        batch = users[start : start + USER_BATCH]
        ranked_BN = ranker(batch, int(min(k + num_seen[batch].max(), split.num_posts)))
        seen_BN = _contains(train_starts, train_posts, batch, ranked_BN, split.num_posts) | (ranked_BN < 0)
        top_BK = first_unseen(ranked_BN, seen_BN, k)
        is_hit_BK = _contains(test_starts, test_posts, batch, top_BK, split.num_posts)
        recalls.append(is_hit_BK.sum(1) / num_wanted[batch])
        gains.append(ndcg(is_hit_BK, num_wanted[batch]))
    return {f"recall@{k}": float(np.concatenate(recalls).mean()), f"ndcg@{k}": float(np.concatenate(gains).mean())}


def first_unseen(ranked_BN: Int64s, is_seen_BN: NDArray[np.bool_], k: int) -> Int64s:
    """The first k of each row that are not seen, in order, [B, K]; -1 pads."""
    order_BN = np.argsort(is_seen_BN, axis=1, kind="stable")[:, :k]
    top_BK = np.take_along_axis(np.where(is_seen_BN, -1, ranked_BN), order_BN, axis=1)
    return np.pad(top_BK, ((0, 0), (0, k - top_BK.shape[1])), constant_values=-1)


def ndcg(is_hit_BK: NDArray[np.bool_], num_wanted_B: Int64s) -> NDArray[np.float64]:
    """Discounted hits over those of the best order, [B]."""
    discounts_K = 1.0 / np.log2(np.arange(is_hit_BK.shape[1]) + 2.0)
    best_B = np.cumsum(discounts_K)[np.minimum(num_wanted_B, len(discounts_K)) - 1]
    gained_B: NDArray[np.float64] = (is_hit_BK * discounts_K).sum(1) / best_B
    return gained_B


def top_places(scores_BP: NDArray[np.float32], num_places: int) -> Int64s:
    """Places of the highest scores of each row, best first, [B, n]."""
    places = np.argpartition(-scores_BP, num_places - 1, axis=1)[:, :num_places]
    order = np.argsort(-np.take_along_axis(scores_BP, places, axis=1), axis=1, kind="stable")
    return np.take_along_axis(places, order, axis=1)


def _contains(starts: Int64s, posts: Int64s, users_B: Int64s, found_BN: Int64s, num_posts: int) -> NDArray[np.bool_]:
    """Whether each found post is among its user's posts, [B, N]; -1 never is."""
    is_one_of_BP = np.zeros((len(users_B), num_posts + 1), dtype=bool)  # the last column stands for -1
    lengths_B = starts[users_B + 1] - starts[users_B]
    row_of = np.repeat(np.arange(len(users_B)), lengths_B)
    place = np.arange(len(row_of)) - np.repeat(np.cumsum(lengths_B) - lengths_B, lengths_B)
    is_one_of_BP[row_of, posts[np.repeat(starts[users_B], lengths_B) + place]] = True
    contained: NDArray[np.bool_] = np.take_along_axis(is_one_of_BP, found_BN, axis=1)
    return contained
