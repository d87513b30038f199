"""Vectorised metrics against scikit-learn and against plain loops."""

import numpy as np
import pytest
from sklearn import metrics as sk

from models.metrics import auc, auc_by_group, gauc, log_loss, ndcg_at_k, recall_at_k


@pytest.fixture(params=range(5))
def rows(request):
    rng = np.random.default_rng(request.param)
    n = 400
    scores = np.round(rng.random(n), 2)  # rounded, so that ties happen
    labels = (rng.random(n) < 0.2 + 0.4 * scores).astype(np.float32)
    return labels, scores, rng.integers(0, 25, n)


def test_auc_equals_scikit_learn(rows):
    labels, scores, _ = rows
    assert auc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)


def test_gauc_equals_a_loop_over_users(rows):
    labels, scores, users = rows
    total = weight = 0.0
    for user in np.unique(users):
        mine = users == user
        if 0 < labels[mine].sum() < mine.sum():
            total += sk.roc_auc_score(labels[mine], scores[mine]) * float(labels[mine].sum())
            weight += float(labels[mine].sum())
    assert gauc(labels, scores, users) == pytest.approx(total / weight, abs=1e-12)


def test_auc_by_group_counts_rows_and_positives(rows):
    labels, scores, users = rows
    _, positives, counts = auc_by_group(labels, scores, users)
    assert counts.tolist() == [int((users == u).sum()) for u in np.unique(users)]
    assert positives.tolist() == [int(labels[users == u].sum()) for u in np.unique(users)]


def test_ndcg_equals_scikit_learn_without_ties(rows):
    labels, _, users = rows
    scores = np.random.default_rng(9).permutation(len(labels)).astype(float)
    values = [
        sk.ndcg_score(labels[None, users == u], scores[None, users == u], k=5)
        for u in np.unique(users)
        if labels[users == u].any()
    ]
    assert ndcg_at_k(labels, scores, users, 5) == pytest.approx(np.mean(values), abs=1e-12)


def test_log_loss_equals_scikit_learn(rows):
    labels, scores, _ = rows
    probabilities = np.clip(scores, 0.01, 0.99)
    assert log_loss(labels, probabilities) == pytest.approx(sk.log_loss(labels, probabilities), abs=1e-9)


def test_recall_equals_a_loop():
    rng = np.random.default_rng(0)
    found = np.array([rng.permutation(50)[:10] for _ in range(30)])
    relevant = [rng.permutation(50)[: rng.integers(0, 6)] for _ in range(30)]
    shares = [len(set(f[:7]) & set(r)) / len(set(r)) for f, r in zip(found, relevant, strict=True) if len(r)]
    assert recall_at_k(found, relevant, 7) == pytest.approx(np.mean(shares))
