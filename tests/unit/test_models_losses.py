import math

import pytest
import torch

from models.losses import listwise_distillation, masked_bce, sampled_softmax, top_set_softmax


def test_masked_bce_by_hand_with_heads_and_rows_weighted():
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])
    labels = torch.tensor([[1.0, 1.0], [0.0, float("nan")]])
    # Head 1: -log ½ twice. Head 2: -log ¾ once, the other row is unobserved.
    by_head = torch.tensor([math.log(2.0), -math.log(0.75)])
    assert masked_bce(logits, labels) == pytest.approx(float(by_head.mean()), abs=1e-6)
    assert masked_bce(logits, labels, torch.tensor([0.9, 0.1])) == pytest.approx(
        0.9 * math.log(2.0) - 0.1 * math.log(0.75), abs=1e-6
    )


def test_masked_bce_weighs_rows():
    logits = torch.tensor([[math.log(3.0)], [0.0]])
    labels = torch.tensor([[1.0], [1.0]])
    expected = (3 * -math.log(0.75) + 1 * math.log(2.0)) / 4
    assert masked_bce(logits, labels, None, torch.tensor([3.0, 1.0])) == pytest.approx(expected, abs=1e-6)


def test_an_unobserved_label_teaches_nothing():
    logits = torch.zeros(2, 2, requires_grad=True)
    masked_bce(logits, torch.tensor([[1.0, float("nan")], [0.0, float("nan")]])).backward()
    assert logits.grad is not None
    assert logits.grad[:, 1].tolist() == [0.0, 0.0]
    assert (logits.grad[:, 0] != 0).all()


def test_sampled_softmax_by_hand_with_the_exposure_taken_out():
    users = torch.tensor([[1.0, 0.0]])
    posts = torch.tensor([[2.0, 0.0], [1.0, 5.0]])
    log_q = torch.tensor([math.log(0.5), math.log(0.25)])
    # Scores 2 and 1, corrected 2 - log ½ and 1 - log ¼.
    expected = -math.log(2 * math.exp(2) / (2 * math.exp(2) + 4 * math.exp(1)))
    loss = sampled_softmax(users, posts, torch.tensor([0]), log_q, torch.tensor([10, 11]))
    assert loss == pytest.approx(expected, abs=1e-6)


def test_an_accidental_hit_is_no_negative():
    users, posts = torch.randn(1, 4), torch.randn(3, 4)
    posts[2] = posts[0]
    target, flat = torch.tensor([0]), torch.zeros(3)
    with_hit = sampled_softmax(users, posts, target, flat, torch.tensor([7, 8, 7]))
    without = sampled_softmax(users, posts[:2], target, flat[:2], torch.tensor([7, 8]))
    assert with_hit == pytest.approx(float(without), abs=1e-6)


def test_an_accidental_hit_gets_no_gradient():
    posts = torch.randn(3, 4, requires_grad=True)
    sampled_softmax(torch.randn(1, 4), posts, torch.tensor([0]), torch.zeros(3), torch.tensor([7, 8, 7])).backward()
    assert posts.grad is not None
    assert posts.grad[2].abs().sum() == 0
    assert posts.grad.isfinite().all()


def test_sampled_softmax_weighs_positives():
    users, posts, flat, ids = torch.randn(2, 4), torch.randn(5, 4), torch.zeros(5), torch.arange(5)
    targets = torch.tensor([1, 3])
    each = [sampled_softmax(users[i : i + 1], posts, targets[i : i + 1], flat, ids) for i in range(2)]
    both = sampled_softmax(users, posts, targets, flat, ids, torch.tensor([3.0, 1.0]))
    assert both == pytest.approx(float((3 * each[0] + each[1]) / 4), abs=1e-5)


def test_distillation_is_least_where_student_equals_teacher_and_ignores_padding():
    teacher = torch.tensor([[3.0, 1.0, 2.0, 99.0]])
    mask = torch.tensor([[True, True, True, False]])
    # Standardised: mean 2, standard deviation sqrt(2/3).
    target = (torch.tensor([1.0, -1.0, 0.0]) / math.sqrt(2 / 3)).softmax(0)
    best = -(target * target.log()).sum()
    student = torch.tensor([[1.0, -1.0, 0.0, -50.0]]) / math.sqrt(2 / 3)
    assert listwise_distillation(student, teacher, mask, 1.0) == pytest.approx(float(best), abs=1e-6)
    assert listwise_distillation(-student, teacher, mask, 1.0) > best + 0.5
    other = student.clone()
    other[0, 3] = 1_000.0
    assert listwise_distillation(other, teacher, mask, 1.0) == pytest.approx(float(best), abs=1e-6)


def test_distillation_of_a_request_with_one_candidate_is_finite():
    student = torch.zeros(1, 3, requires_grad=True)
    listwise_distillation(
        student, torch.tensor([[5.0, 0.0, 0.0]]), torch.tensor([[True, False, False]]), 1.0
    ).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_the_top_set_against_the_rest_by_hand():
    scores = torch.tensor([[2.0, 1.0, 0.0, -1.0, 9.0], [0.5, 0.0, 0.0, 0.0, 0.0]])
    is_top = torch.tensor([[True, True, False, False, False], [False] * 5])
    mask = torch.tensor([[True, True, True, True, False], [True] * 5])
    rest = math.log(math.exp(0.0) + math.exp(-1.0))
    by_hand = [math.log1p(math.exp(rest - score)) for score in (2.0, 1.0)]
    assert float(top_set_softmax(scores, is_top, mask)) == pytest.approx(sum(by_hand) / 2 / 2)


def test_the_top_set_loss_asks_nothing_of_the_order_within():
    scores = torch.tensor([[3.0, 1.0, -2.0, -4.0]], requires_grad=True)
    is_top = torch.tensor([[True, True, False, False]])
    top_set_softmax(scores, is_top, torch.ones(1, 4, dtype=torch.bool)).backward()
    gradient = scores.grad[0]
    assert gradient.sign().tolist() == [-1.0, -1.0, 1.0, 1.0]
    assert gradient[1] < gradient[0]  # nearer to the cut, pushed harder
    assert gradient[2] > gradient[3]


def test_a_request_of_nothing_but_its_top_set_has_a_finite_loss():
    scores = torch.tensor([[3.0, 1.0]], requires_grad=True)
    loss = top_set_softmax(scores, torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0.0
    assert scores.grad.isfinite().all()
