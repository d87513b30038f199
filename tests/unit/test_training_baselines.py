"""Baselines on cases worked out by hand."""

import numpy as np
import pytest

from core.errors import InputError
from core.schema import HEADS
from training.baselines import (
    Factorised,
    ItemToItem,
    LightGbmConfig,
    Matrix,
    fit_lightgbm,
    lightgbm_columns,
    popularity_scores,
)
from training.examples import Examples
from training.factorisation import FactorisationConfig, fold_in


def test_popularity_sums_the_worth_of_positives_per_post() -> None:
    scores = popularity_scores(
        np.array([5, 7, 5, 99]), np.array([1.0, 2.0, 3.0, 9.0], dtype=np.float32), np.array([7, 5, 1])
    )
    assert scores.tolist() == [2.0, 4.0, 0.0]
    assert len(popularity_scores(np.array([5]), np.ones(1, dtype=np.float32), np.array([], dtype=np.int64))) == 0


def test_item_to_item_is_the_cosine_of_user_sets() -> None:
    # Post 10: users 1, 2. Post 20: users 1, 2, 3. Post 30: user 3. A repeat counts once.
    users, posts = np.array([1, 2, 1, 2, 3, 3, 3]), np.array([10, 10, 20, 20, 20, 30, 30])
    model = ItemToItem(users, posts, np.array([10, 20, 30, 40]))
    scores = model.scores(np.array([[10, -1], [20, 30], [-1, -1], [77, 40]]))
    together_1020, together_2030 = 2 / np.sqrt(2 * 3), 1 / np.sqrt(3 * 1)
    np.testing.assert_allclose(scores[0], [0, together_1020, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(scores[1], [together_1020, together_2030, together_2030, 0], rtol=1e-6)
    assert not scores[2:].any()


def test_item_to_item_keeps_the_nearest_only() -> None:
    users = np.array([1, 1, 1, 2, 2])
    posts = np.array([10, 20, 30, 10, 20])
    scores = ItemToItem(users, posts, np.array([10, 20, 30]), num_neighbours=1).scores(np.array([[10]]))
    assert scores[0].tolist() == pytest.approx([0.0, 1.0, 0.0])


def test_item_to_item_without_positives_scores_nothing() -> None:
    none = np.array([], dtype=np.int64)
    assert not ItemToItem(none, none, np.array([1, 2])).scores(np.array([[1]])).any()


def test_a_folded_in_user_solves_their_normal_equations() -> None:
    """One user with posts 0 and 2 of three: (X'X + gravity G + l2 I) u = the sum of both, all written out."""
    posts_PD = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=np.float32)
    config = FactorisationConfig(dim=2, gravity=0.5, regularisation=0.1, frequency_power=1.0)
    found = fold_in(np.array([1, 1]), np.array([0, 2]), 2, posts_PD, config)
    own, gram = np.array([[2.0, 1.0], [1.0, 1.0]]), np.array([[2.0, 1.0], [1.0, 2.0]])
    expected = np.linalg.solve(own + 0.5 * gram + 0.1 * (2 + 0.5 * 3) * np.eye(2), [2.0, 1.0])
    np.testing.assert_allclose(found, [[0.0, 0.0], expected], atol=1e-6)


def test_factors_put_posts_of_one_audience_together_and_codes_bring_in_the_unseen() -> None:
    users, posts = np.repeat(np.arange(40), 3), np.tile([10, 11, 12, 20, 21, 22], 20)
    catalogue, topics = np.array([10, 11, 12, 13, 20, 21, 22, 23]), np.array([5, 5, 5, 5, 9, 9, 9, 9])
    scores = Factorised(users, posts, catalogue, [topics]).scores(np.array([[10, 11, -1]]))[0]
    assert scores[2] > 10 * abs(scores[6]), "12 has the same audience, 22 the other"
    assert scores[3] > 10 * abs(scores[7]), "13 and 23 were met by nobody; their topics were"


def test_the_matrix_codes_text_and_leaves_unknown_text_empty() -> None:
    train = {"a": np.array(["x", "y"], dtype=object), "b": np.array([[1, 2], [3, 4]], dtype=np.int32)}
    matrix = Matrix(train, ["a", "b"])
    assert matrix.feature_names == ["a", "b_0", "b_1"]
    assert matrix.categorical == [0]
    out = matrix.of({"a": np.array(["y", "?"], dtype=object), "b": train["b"]})
    np.testing.assert_array_equal(out, [[1, 1, 2], [np.nan, 3, 4]])
    with pytest.raises(InputError, match="lacks columns"):
        Matrix(train, ["c"])


def examples(n: int, seed: int, is_planted: bool) -> Examples:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n).astype(np.float32)
    labels = np.full((n, len(HEADS)), np.nan, dtype=np.float32)
    chance = 1 / (1 + np.exp(-4 * x)) if is_planted else np.full(n, 0.3)
    labels[:, 0] = rng.random(n) < chance
    labels[: n // 10, 0] = np.nan
    ids = np.arange(n)
    columns = {
        "post_activity__x": x,
        "post_profile__language": rng.choice(np.array(["en", "de"], dtype=object), n),
        "user_history__history_post_ids": np.zeros((n, 3), dtype=np.int32),
    }
    return Examples(columns, labels, ids, ids, ids, ids.astype(np.float64))


@pytest.mark.parametrize("is_planted", [True, False])
def test_lightgbm_finds_a_planted_signal_and_nothing_in_noise(is_planted: bool) -> None:
    from sklearn.metrics import roc_auc_score

    train, validation, test = (examples(3_000, seed, is_planted) for seed in (0, 1, 2))
    names = lightgbm_columns(train.columns)
    assert names == ["post_activity__x", "post_profile__language"]
    model = fit_lightgbm(train, validation, 0, names, LightGbmConfig(max_rounds=50, num_threads=1))
    known = ~np.isnan(test.labels[:, 0])
    auc = roc_auc_score(test.labels[known, 0], model.probabilities(test.columns)[known])
    assert auc > 0.9 if is_planted else abs(auc - 0.5) < 0.04
