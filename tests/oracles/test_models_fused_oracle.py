"""The fused kernel against row-wise Adagrad written out over dictionaries."""

import math

import pytest
import torch

from models.fused import EPSILON, FusedTable


def test_three_steps_equal_row_wise_adagrad_by_hand():
    torch.manual_seed(0)
    table = FusedTable("post", 12, 4)
    expected, sums = table.weight.tolist(), [0.0] * 12
    for rate in (0.1, 0.05, 0.2):
        rows, slopes = torch.randint(0, 6, (20,)), torch.randn(20, 4)
        table.set_learning_rate(rate)
        table(rows).backward(slopes)
        gradients: dict[int, list[float]] = {}
        for row, slope in zip(rows.tolist(), slopes.tolist(), strict=True):
            gradients[row] = [a + b for a, b in zip(gradients.get(row, [0.0] * 4), slope, strict=True)]
        for row, gradient in gradients.items():
            sums[row] += sum(g * g for g in gradient) / 4
            scale = rate / (math.sqrt(sums[row]) + EPSILON)
            expected[row] = [w - scale * g for w, g in zip(expected[row], gradient, strict=True)]
        torch.testing.assert_close(table.weight, torch.tensor(expected), atol=1e-6, rtol=1e-5)


def test_what_is_read_without_gradients_is_the_table():
    table = FusedTable("post", 5, 8)
    rows = torch.tensor([4, 0, 4])
    with torch.inference_mode():
        assert torch.equal(table(rows), table.weight[rows])


def test_a_width_that_the_kernel_cannot_take_is_named():
    with pytest.raises(ValueError, match="table post is 6 wide"):
        FusedTable("post", 5, 6)


def test_a_row_that_starts_anew_has_forgotten_its_steps():
    table = FusedTable("post", 9, 4)
    rows, slope = torch.tensor([3, 5]), torch.tensor([[1.0, -2.0, 0.5, 0.0]] * 2)
    for _ in range(4):
        table.set_learning_rate(0.1)
        table(rows).backward(slope)
    other = table.weight[5].clone()
    table.start_anew(torch.tensor([3]))
    assert (table.weight[3].abs() <= 9**-0.5).all()
    torch.testing.assert_close(table.weight[5], other)
    before = table.weight[3].clone()
    table(torch.tensor([3])).backward(slope[:1])
    scale = 0.1 / (math.sqrt((1 + 4 + 0.25) / 4) + EPSILON)  # as on the very first step
    torch.testing.assert_close(table.weight[3], before - scale * slope[0], atol=1e-6, rtol=1e-5)
