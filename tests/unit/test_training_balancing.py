import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from core.schema import HEADS
from models.encode import encode
from models.towers import TowerConfig
from tests.planted_examples import examples, spec_of
from training.balancing import Balance, draw_balanced
from training.fit_retrieval import RetrievalConfig, fit_retrieval
from training.loop import LoopConfig

LABELS = np.array([1.0] * 100 + [0.0] * 900, dtype=np.float32)


def test_positives_are_repeated_and_negatives_left_out_to_as_many_rows_as_there_were():
    drawn = draw_balanced(LABELS, None, Balance(most=10.0), 0)
    assert drawn.rates[0] == pytest.approx(5.0)
    assert drawn.rates[-1] == pytest.approx(500 / 900)
    assert np.bincount(drawn.rows)[:100].tolist() == [5] * 100
    assert (drawn.rows >= 100).sum() == pytest.approx(500, abs=60)
    assert np.diff(drawn.rows).min() == 0
    assert drawn.log_odds_shift == pytest.approx(math.log(9))


def test_a_row_is_repeated_no_more_than_said_and_fewer_of_the_others_kept():
    drawn = draw_balanced(LABELS, None, Balance(most=2.0), 0)
    assert drawn.rates[0] == pytest.approx(2.0)
    assert drawn.rates[-1] == pytest.approx(200 / 900)
    assert drawn.log_odds_shift == pytest.approx(math.log(9))


def test_weights_count_and_unknown_labels_stay_as_they_are():
    labels = np.concatenate([LABELS, np.full(50, np.nan, dtype=np.float32)])
    weights = np.where(labels > 0.5, 9.0, 1.0).astype(np.float32)  # balanced already
    drawn = draw_balanced(labels, weights, Balance(), 0)
    np.testing.assert_allclose(drawn.rates, 1.0)
    assert drawn.rows.tolist() == list(range(1_050))
    assert drawn.log_odds_shift == pytest.approx(0.0)


def test_one_class_alone_cannot_be_balanced():
    with pytest.raises(ValueError, match="click has one class only among 100 rows"):
        draw_balanced(LABELS[:100], None, Balance(), 0)


def test_a_model_of_drawn_rows_tells_the_rates_of_all_rows():
    """A label to balance at 8 %, another whose rate depends on it; both means must come out as in the log."""
    data = examples(3_000, 0, False)
    rng = np.random.default_rng(0)
    labels = data.labels.copy()
    click = rng.random(3_000) < 0.08
    labels[:, HEADS.index("click")] = click
    labels[:, HEADS.index("like")] = rng.random(3_000) < np.where(click, 0.6, 0.05)
    data = replace(data, labels=labels)
    loop = LoopConfig(batch_size=100, max_epochs=3, learning_rate=5e-3)
    config = RetrievalConfig(
        TowerConfig(dim=4, hidden=(8,)), loop, ("click", "like"), softmax_weight=0.0, balance=Balance("click")
    )
    fitted = fit_retrieval(data, data, spec_of(data, False), config, 0, None, 1)
    with torch.no_grad():
        users, bias = fitted.module.user_parts(encode(fitted.spec, "user", data.columns))
        posts = fitted.module.post_vectors(encode(fitted.spec, "post", data.columns))
        means = fitted.module.task_logits((users * posts).sum(1), bias).sigmoid().mean(0).tolist()
    assert means[0] == pytest.approx(click.mean(), rel=0.25)  # half of the rows drawn are clicks
    assert means[1] == pytest.approx(labels[:, HEADS.index("like")].mean(), rel=0.25)


def test_a_balance_of_no_task_is_refused():
    with pytest.raises(ValueError, match="balance names task share"):
        RetrievalConfig(balance=Balance("share"))
