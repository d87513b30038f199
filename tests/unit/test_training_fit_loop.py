import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from training.loop import (
    LoopConfig,
    num_batches,
    rate_factor,
    run_training,
    shuffled_batches,
    spaced_rows,
)
from training.optimisers import RowwiseAdagrad

LOOP = LoopConfig(
    batch_size=4, max_epochs=5, learning_rate=0.1, validations_per_epoch=1, patience=2, schedule="constant"
)


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))


def test_training_stops_after_patience_and_restores_the_best_weights():
    module, seen = Line(), []

    def validate():
        seen.append(module.weight.item())
        return {"valid_loss": [5.0, 3.0, 4.0, 6.0, 0.0][len(seen) - 1]}

    history = run_training(module, LOOP, 8, lambda rows: -module.weight * len(rows), validate, 0)
    assert [entry["valid_loss"] for entry in history] == [5.0, 3.0, 4.0, 6.0]
    assert module.weight.item() == seen[1]
    assert not module.training


def test_history_tells_step_epoch_rate_and_losses():
    module = Line()
    history = run_training(
        module, LOOP, 8, lambda _: (module.weight - 1) ** 2, lambda: {"valid_loss": 1.0, "valid_auc": 0.5}, 0
    )
    assert history[0]["step"] == 2
    assert history[0]["epoch"] == 1
    assert history[0]["learning_rate"] == pytest.approx(0.1)
    assert history[0]["valid_auc"] == 0.5
    assert 0 < history[0]["train_loss"] <= 1


def test_progress_ends_at_the_plan_even_after_an_early_stop():
    told = []
    module = Line()
    run_training(
        module, LOOP, 8, lambda _: module.weight**2, lambda: {"valid_loss": 1.0}, 0, lambda *at: told.append(at)
    )
    assert told[0] == (1, 10)
    assert told[-1] == (10, 10)


def test_a_broken_loss_stops_with_a_message():
    module = Line()
    with pytest.raises(ValueError, match="learning rate"):
        run_training(module, LOOP, 8, lambda _: module.weight**2, lambda: {"valid_loss": math.nan}, 0)


def test_nothing_to_train_on_is_said():
    with pytest.raises(ValueError, match="no examples"):
        run_training(Line(), LOOP, 0, lambda _: torch.zeros(()), lambda: {"valid_loss": 0.0}, 0)


def test_batches_cover_every_row_once_and_leave_out_a_small_rest():
    generator = torch.Generator().manual_seed(0)
    batches = list(shuffled_batches(11, 4, generator))
    assert [len(b) for b in batches] == [4, 4, 3]
    assert sorted(torch.cat(batches).tolist()) == list(range(11))
    assert [len(b) for b in shuffled_batches(9, 4, generator)] == [4, 4]
    assert [len(b) for b in shuffled_batches(1, 4, generator)] == [1]
    for rows in range(1, 40):
        assert num_batches(rows, 8) == len(list(shuffled_batches(rows, 8, generator)))


def test_the_reference_schedule_decays_per_epoch():
    reference = replace(LOOP, schedule="exponential", decay=0.9)
    assert [rate_factor(reference, step, 30, 10) for step in (0, 9, 10, 25)] == pytest.approx([1.0, 1.0, 0.9, 0.81])


def test_the_cosine_schedule_rises_and_falls():
    cosine = replace(LOOP, schedule="cosine", warmup_share=0.1)
    factors = [rate_factor(cosine, step, 100, 10) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == pytest.approx(1.0)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] < 0.02


def test_rowwise_adagrad_by_hand():
    table = nn.Parameter(torch.tensor([[1.0, 1.0], [2.0, 2.0]]))
    table.grad = torch.tensor([[3.0, 1.0], [0.0, 0.0]])
    RowwiseAdagrad([table], lr=0.5).step()
    scale = math.sqrt((9 + 1) / 2)
    torch.testing.assert_close(table.detach(), torch.tensor([[1 - 1.5 / scale, 1 - 0.5 / scale], [2.0, 2.0]]))


def test_rowwise_adagrad_takes_sparse_gradients_alike():
    generator = torch.Generator().manual_seed(0)
    start, rows = torch.randn(6, 3, generator=generator), torch.tensor([1, 4, 1])
    results = []
    for sparse in (False, True):
        table = nn.Embedding(6, 3, sparse=sparse)
        with torch.no_grad():
            table.weight.copy_(start)
        optimiser = RowwiseAdagrad([table.weight], lr=0.1)
        for _ in range(3):
            table.weight.grad = None
            (table(rows) ** 2).sum().backward()
            optimiser.step()
        results.append(table.weight.detach().clone())
    torch.testing.assert_close(*results)


def test_spaced_rows_keep_both_ends_and_order():
    assert spaced_rows(10, 4).tolist() == [0, 3, 6, 9]
    assert spaced_rows(3, 10).tolist() == [0, 1, 2]
    assert spaced_rows(0, 10).tolist() == []
