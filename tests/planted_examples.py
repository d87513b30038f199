"""Generated examples with a planted signal, or none, for tests of models and training loops."""

import numpy as np

from core.schema import HEADS
from models.features import Feature, fit_spec
from training.examples import CANDIDATE_RANK, CANDIDATE_SCORE, Examples

NUM_USERS, NUM_POSTS, NUM_TOPICS = 60, 150, 5


def features(with_cross: bool = True) -> list[Feature]:
    found = [
        Feature("user__language", "user", "categorical", table="language", num_rows=64, dim=4),
        Feature("user__activity", "user", "numeric", "log1p"),
        Feature("user__codes", "user", "codes", table="code", num_rows=64, dim=4, length=3),
        Feature("history__post_ids", "user", "sequence", table="post", num_rows=200, dim=8, length=6, group="history"),
        Feature("history__topic_ids", "user", "sequence", table="topic", num_rows=8, dim=8, length=6, group="history"),
        Feature("history__kinds", "user", "sequence", table="kind", num_rows=16, dim=4, length=6, group="history"),
        Feature("user__followed", "user", "sequence", table="topic", num_rows=8, dim=8, length=4),
        Feature("user__taste", "user", "embedding", dim=6),
        Feature("post__post_id", "post", "categorical", table="post", num_rows=200, dim=8),
        Feature("post__topic_id", "post", "categorical", table="topic", num_rows=8, dim=8),
        Feature("post__language", "post", "categorical", table="language", num_rows=64, dim=4),
        Feature("post__rate", "post", "numeric", "logit"),
        Feature("post__age", "post", "numeric", "log1p"),
        Feature("post__content", "post", "embedding", dim=6),
        Feature("cross__match", "cross", "numeric"),
    ]
    return found if with_cross else [f for f in found if f.side != "cross"]


def columns(num_rows: int, seed: int) -> dict[str, np.ndarray]:
    """Users with a favourite topic, posts with one topic, whatever order the rows come in."""
    rng = np.random.default_rng(seed)
    users, posts = rng.integers(0, NUM_USERS, num_rows), rng.integers(0, NUM_POSTS, num_rows)
    favourite, topic = users % NUM_TOPICS, posts % NUM_TOPICS
    length = rng.integers(0, 7, (num_rows, 1))
    history = np.where(np.arange(6) < length, rng.integers(0, NUM_POSTS, (num_rows, 6)), -1)
    content = np.eye(NUM_TOPICS + 1, dtype=np.float32)
    age = rng.exponential(20, num_rows).astype(np.float32)
    age[rng.random(num_rows) < 0.1] = np.nan
    words = np.array(["de", "en", ""], dtype=object)
    return {
        "ids__user": users,
        "ids__post": posts,
        "user__language": words[users % 3],
        "user__activity": rng.poisson(5, num_rows).astype(np.float32),
        "user__codes": rng.integers(-1, 5, (num_rows, 3)),
        "history__post_ids": history,
        "history__topic_ids": np.where(history >= 0, favourite[:, None], -1),
        "history__kinds": np.where(history >= 0, rng.integers(0, 9, (num_rows, 6)), -1),
        "user__followed": np.where(np.arange(4) < 1, favourite[:, None], -1),
        "user__taste": content[favourite],
        "post__post_id": posts,
        "post__topic_id": topic,
        "post__language": words[posts % 3],
        "post__rate": rng.uniform(0.01, 0.3, num_rows).astype(np.float32),
        "post__age": age,
        "post__content": content[topic],
        "cross__match": (favourite == topic).astype(np.float32) + rng.normal(0, 1, num_rows).astype(np.float32),
    }


def examples(num_rows: int, seed: int, is_planted: bool, with_candidates: bool = False) -> Examples:
    """Impressions whose labels follow the match of favourite and topic, or a coin.

    With candidates, each 30 rows are one request of one user, ranked by the same match, or at random.
    """
    rng = np.random.default_rng(seed + 1_000)
    found = columns(num_rows, seed)
    if with_candidates:
        first = np.arange(num_rows) // 30 * 30
        for name in found:
            if name.startswith(("user__", "history__", "ids__user")):
                found[name] = found[name][first]
    is_match = (found["ids__user"] % NUM_TOPICS) == (found["ids__post"] % NUM_TOPICS)
    chance = np.where(is_match, 0.95, 0.03) if is_planted else np.full(num_rows, 0.3)
    labels = (rng.random((num_rows, len(HEADS))) < chance[:, None]).astype(np.float32)
    labels[:, [HEADS.index("see_less"), HEADS.index("report")]] = 0.0
    labels[::7, HEADS.index("share")] = np.nan
    labels[:, HEADS.index("save")] = np.nan
    if with_candidates:
        score = (is_match if is_planted else 0.0) + 0.05 * rng.random(num_rows)
        by_request = score.reshape(-1, 30)
        found[CANDIDATE_SCORE] = score.astype(np.float32)
        found[CANDIDATE_RANK] = np.argsort(np.argsort(-by_request, axis=1), axis=1).reshape(-1)
    return Examples(
        columns=found,
        labels=labels,
        user_ids=found["ids__user"],
        post_ids=found["ids__post"],
        request_ids=np.arange(num_rows) // 30,
        served_at=np.arange(num_rows, dtype=np.float64),
    )


def spec_of(of: Examples, with_cross: bool = True):
    return fit_spec(features(with_cross), of.columns)
