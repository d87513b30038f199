from dataclasses import replace

import numpy as np
import pytest
import torch

from core.schema import HEADS
from models.metrics import auc, calibration
from models.request_grid import request_grid
from models.second_stage import SecondStageConfig
from tests.planted_examples import examples, spec_of
from training.encoded_examples import encode_examples
from training.fit_second_stage import SecondStageRun, fit_second_stage
from training.head_losses import HeadLoss
from training.loop import LoopConfig

LOOP = LoopConfig(batch_size=256, max_epochs=2, learning_rate=5e-3, validations_per_epoch=1)
NETWORK = SecondStageConfig(heads=("click", "follow"), cross_rank=4, trunk=(16, 8), head_hidden=4, history_length=4)
FOLLOW = HEADS.index("follow")


def with_rare_follow(num_rows, seed):
    """About 2 in 100 rows are followed, ten times as many where user and post match."""
    found = examples(num_rows, seed, is_planted=True)
    is_match = found.labels[:, 0] > 0.5
    labels = found.labels.copy()
    labels[:, FOLLOW] = np.random.default_rng(seed).random(num_rows) < np.where(is_match, 0.06, 0.006)
    return replace(found, labels=labels)


@pytest.mark.parametrize("weights", [{}, {"follow": 20.0}])
def test_a_rare_head_keeps_its_order_and_its_mean_however_often_its_positives_count(weights):
    train, later = with_rare_follow(8_000, 1), with_rare_follow(8_000, 2)
    run = SecondStageRun(NETWORK, replace(LOOP, max_epochs=5), positive_weights=weights, unknown_user_share=0.0)
    fitted = fit_second_stage(train, later, later, spec_of(train), run, 0, None, 1)
    encoded = encode_examples(fitted.spec, later, fitted.heads)
    with torch.no_grad():
        raw = torch.sigmoid(fitted.module(*encoded.sides)).numpy()[:, 1]
    followed = later.labels[:, FOLLOW]
    assert auc(followed, raw) > 0.67
    assert calibration(followed, raw) == pytest.approx(1.0, abs=0.25), "before any calibrator"


def test_the_correction_undoes_what_the_weight_of_positives_adds():
    """Of ten rows one is positive. Counted nine times the best constant is log odds 0; the truth is log 1/9."""
    loss = HeadLoss(("follow",), {"follow": 1.0}, {"follow": 9.0})
    labels = torch.tensor([[1.0]] + [[0.0]] * 9)
    at = torch.zeros(10, 1, requires_grad=True)
    loss(at, labels, None).backward()
    assert float(at.grad.sum()) == pytest.approx(0.0, abs=1e-7)
    assert float(loss.correction[0]) == pytest.approx(np.log(1 / 9))
    assert float(loss.start(labels).logit()[0]) == pytest.approx(0.0, abs=1e-6)


def spread_after(num_rows, fresh):
    train = examples(num_rows, 1, is_planted=True)
    run = SecondStageRun(replace(NETWORK, num_networks=2), LOOP, unknown_user_share=0.0)
    fitted = fit_second_stage(train, fresh, fresh, spec_of(train), run, 0, None, 1)
    encoded = encode_examples(fitted.spec, fresh, fitted.heads)
    with torch.no_grad():
        return fitted.module.spread(*encoded.sides).mean(0)


def test_the_spread_of_the_logits_shrinks_with_the_rows_that_were_learnt_from():
    fresh = examples(1_000, 9, is_planted=True)
    few, some, many = (spread_after(rows, fresh) for rows in (250, 1_500, 9_000))
    assert (many < some).all()
    assert (some < few).all()
    assert (many < few / 2).all()


def test_the_spread_is_that_of_a_logistic_regression_on_the_last_layers_inputs():
    """Against the inverse of the Hessian, summed row by row; head 1 is observed in every second row only."""
    train = examples(400, 1, is_planted=True)
    train.labels[::2, FOLLOW] = np.nan
    run = SecondStageRun(NETWORK, replace(LOOP, max_epochs=1), unknown_user_share=0.0)
    fitted = fit_second_stage(train, train, train, spec_of(train), run, 0, None, 1)
    encoded = encode_examples(fitted.spec, train, fitted.heads)
    sides, rows = encoded.sides[:3], len(encoded.labels)
    network = fitted.module.networks[0]
    with torch.no_grad():
        inputs = torch.nn.functional.pad(
            network.towers(*sides, request_grid(None, rows, rows))[1], (0, 1), value=1.0
        ).double()
        p = fitted.module(*sides)[:, 1].sigmoid().double()
        hessian = torch.eye(5, dtype=torch.float64)
        for row in range(1, 400, 2):
            hessian += p[row] * (1 - p[row]) * torch.outer(inputs[row], inputs[row])
        expected = torch.einsum("bk,kl,bl->b", inputs, hessian.inverse(), inputs).sqrt()
        torch.testing.assert_close(fitted.module.spread(*sides)[:, 1].double(), expected, rtol=1e-3, atol=1e-5)
