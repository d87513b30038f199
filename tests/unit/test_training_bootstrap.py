import numpy as np
import pytest

from models.metrics import auc, gauc, normalised_entropy
from training import bootstrap
from training.bootstrap import Interval, compare, draws


def log(number):
    return float(np.log(number))


def test_two_users_and_every_draw_of_them_by_hand(monkeypatch):
    """User 0: the first model ranks right (AUC 1), the second wrong (0). User 1: both right.

    Draws (2, 0), (1, 1), (0, 2). Scores of user 1 lie apart from user 0's only in order:
    first: positives .9, .8, negatives .2, .1; second: user 0 the other way round (.2 and .9).
    Both users once: pairs first 4 of 4; second (.2 over .9 no, .2 over .1 yes, .8 over .9 no, .8 over .1 yes) 2 of 4.
    User 0 twice: 1 - 0. User 1 twice: 1 - 1.
    """
    labels, users = np.array([1.0, 0, 1, 0]), np.array([7, 7, 9, 9])
    first, second = np.array([0.9, 0.2, 0.8, 0.1]), np.array([0.2, 0.9, 0.8, 0.1])
    monkeypatch.setattr(bootstrap, "draws", lambda *_: np.array([[2, 0], [1, 1], [0, 2]]))
    found = compare(labels, first, second, users)
    assert found["auc"] == Interval(0.5, pytest.approx(0.025), pytest.approx(0.975))
    assert found["gauc"] == Interval(0.5, pytest.approx(0.025), pytest.approx(0.975))
    # NE: half the rows are positive in every draw, base log 2; only user 0's losses differ.
    per_user_0 = (-log(0.9) - log(0.8) + log(0.2) + log(0.1)) / 2 / log(2)
    assert found["ne"].difference == pytest.approx(per_user_0 / 2)
    assert found["ne"].low == pytest.approx(0.95 * per_user_0 + 0.05 * per_user_0 / 2)


def test_without_resampling_the_differences_are_those_of_the_metrics():
    rng = np.random.default_rng(0)
    users = rng.integers(0, 40, 600)
    labels = (rng.random(600) < 0.3).astype(float)
    first, second = np.round(rng.random(600), 1) * 0.9 + 0.05, rng.random(600)
    found = compare(labels, first, second, users, num_resamples=5)
    assert found["auc"].difference == pytest.approx(auc(labels, first) - auc(labels, second))
    assert found["gauc"].difference == pytest.approx(gauc(labels, first, users) - gauc(labels, second, users))
    assert found["ne"].difference == pytest.approx(
        normalised_entropy(labels, first) - normalised_entropy(labels, second)
    )


def test_a_model_against_itself_differs_by_nothing_and_a_better_one_clearly():
    rng = np.random.default_rng(1)
    users = rng.integers(0, 200, 4_000)
    truth = rng.random(4_000)
    labels = (rng.random(4_000) < truth).astype(float)
    same = compare(labels, truth, truth, users, 20)["auc"]
    assert (same.difference, same.low, same.high) == (0.0, 0.0, 0.0)
    noisy = np.clip(truth + rng.normal(0, 0.5, 4_000), 0.01, 0.99)
    assert all(i.low > 0 or i.high < 0 for i in compare(labels, truth, noisy, users, 100).values())


def test_each_resample_draws_as_many_users_as_there_are():
    assert (draws(13, 6, 0).sum(1) == 13).all()
