"""Batches from memory and batches from files are the same, whoever is forgotten and whatever order is drawn."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.features import Feature, fit_spec
from models.second_stage import SecondStageConfig
from tests.planted_examples import examples, spec_of
from training.encoded_examples import StoredExamples, encode_examples, forget_users, rows_by_user
from training.examples import Examples, RequestColumns
from training.fit_second_stage import SecondStageRun, fit_second_stage
from training.loop import LoopConfig, prepared_ahead, shuffled_batches

HEADS = ("click", "like")


def by_request(num_rows: int, seed: int) -> Examples:
    """Planted examples, six posts to a request."""
    data = examples(num_rows, seed, True, with_candidates=True)
    user_of = np.arange(num_rows) // 6
    of_user = {n: v[::6] for n, v in data.columns.items() if n.startswith(("user__", "history__"))}
    own = {n: v for n, v in data.columns.items() if n not in of_user}
    return replace(data, columns=RequestColumns(own, of_user, user_of), request_ids=user_of)


def test_batches_from_files_are_those_from_memory_with_users_forgotten():
    data = by_request(120, 0)
    clicks, followed = "user_activity__num_click_total", "user_post_cross__is_followed"
    known = data.columns
    shared = {clicks: np.arange(1.0, 21.0, dtype=np.float32)}
    columns = RequestColumns({**known.own, followed: np.ones(120, np.float32)}, shared, known.user_of)
    data = replace(data, columns=columns)
    spec = fit_spec(
        [
            Feature(clicks, "user", "numeric"),
            Feature("post__topic_id", "post", "categorical", table="topic", num_rows=8, dim=4),
            Feature(followed, "cross", "numeric"),
        ],
        columns,
    )
    forgotten = np.array([2, 3, 19])
    encoded = encode_examples(spec, data, HEADS)
    before = encoded.user.numeric.clone()
    forget_users(encoded, spec, data, forgotten)
    is_changed = (encoded.user.numeric != before).any(1)
    assert is_changed.nonzero().flatten().tolist() == forgotten.tolist()
    is_changed = (encoded.cross.numeric != encoded.cross.numeric[0]).any(1)
    assert is_changed.nonzero().flatten().tolist() == [*range(12, 24), *range(114, 120)]
    rows = torch.tensor([14, 115, 3, 12, 25, 13])
    found, expected = StoredExamples(spec, data, HEADS, forgotten).take(rows), encoded.take(rows)
    assert found.user.num_rows == 4
    for mine, theirs in zip(found.sides[:3], expected.sides[:3], strict=True):
        torch.testing.assert_close(mine.numeric, theirs.numeric)
        assert torch.equal(mine.ids, theirs.ids)
    assert torch.equal(found.user_of, expected.user_of)
    torch.testing.assert_close(found.labels, expected.labels, equal_nan=True)


def test_training_from_files_learns_what_training_from_memory_learns():
    data = by_request(1_200, 0)
    spec = spec_of(data)
    network = SecondStageConfig(HEADS, cross_rank=4, trunk=(16, 8), head_hidden=4, history_length=4)
    run = SecondStageRun(network, LoopConfig(batch_size=256, max_epochs=8, learning_rate=1e-2))
    for in_memory_rows in (10_000, 100):
        one = replace(run, in_memory_rows=in_memory_rows)
        assert fit_second_stage(data, data, data, spec, one, 0, None, 1).metrics["auc_click"] > 0.9


def test_rows_of_users_come_user_by_user():
    rows_of = rows_by_user(torch.tensor([1, 0, 1, 2, 1]))
    assert rows_of(torch.tensor([2, 1])).tolist() == [3, 0, 2, 4]
    assert rows_of(torch.tensor([0])).tolist() == [1]


@pytest.mark.parametrize("block", [0, 1, 7, 1_000])
def test_every_row_is_drawn_once_in_blocks_too(block):
    batches = list(shuffled_batches(500, 50, torch.Generator().manual_seed(0), block))
    assert torch.cat(batches).sort().values.tolist() == list(range(500))
    assert torch.cat(batches).tolist() != list(range(500))


def test_what_is_prepared_ahead_comes_in_order_and_with_its_error():
    assert list(prepared_ahead(iter(range(5)), lambda n: n * n)) == [0, 1, 4, 9, 16]

    def fail(n):
        raise ZeroDivisionError(n)

    with pytest.raises(ZeroDivisionError):
        list(prepared_ahead(iter(range(3)), fail))
