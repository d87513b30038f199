from dataclasses import replace

import numpy as np
import pytest
import torch

from core.schema import HEADS
from models.first_stage import FirstStageConfig, build_first_stage
from models.second_stage import SecondStageConfig
from models.towers import TowerConfig
from tests.planted_examples import examples, spec_of
from training.encoded_examples import encode_examples
from training.examples import Examples
from training.fit_first_stage import FirstStageRun, fit_first_stage, select_labels
from training.fit_retrieval import RetrievalConfig, fit_retrieval, task_labels
from training.fit_second_stage import SecondStageRun, fit_second_stage
from training.loop import LoopConfig
from training.train import load_second_stage, predict_logits

LOOP = LoopConfig(batch_size=256, max_epochs=1, validations_per_epoch=1)
NETWORK = SecondStageConfig(cross_rank=4, trunk=(16, 8), head_hidden=4, history_length=4)
TOWERS = TowerConfig(dim=8, hidden=(16,))


@pytest.fixture(scope="module")
def data():
    return examples(1_200, 0, True)


def test_the_second_stage_predicts_a_subset_of_heads(data):
    network = replace(NETWORK, heads=("click", "like"))
    fitted = fit_second_stage(data, data, data, spec_of(data), SecondStageRun(network, LOOP), 0, None, 1)
    assert fitted.heads == ("click", "like")
    assert len(fitted.calibrators) == 2
    assert {"auc_click", "ne_like", "calibration_click", "gauc_like"} <= set(fitted.metrics)
    assert "auc_share" not in fitted.metrics


def test_a_mixture_of_experts_trains_and_is_saved(data, tmp_path):
    run = SecondStageRun(replace(NETWORK, trunk_kind="mmoe"), LOOP)
    fitted = fit_second_stage(data, data, data, spec_of(data), run, 0, None, 1)
    assert fitted.save(tmp_path, {}).is_dir()


def test_averaged_networks_differ_and_are_served_as_their_mean(data, tmp_path):
    run = SecondStageRun(replace(NETWORK, num_networks=2), LOOP)
    fitted = fit_second_stage(data, data, data, spec_of(data), run, 0, None, 1)
    encoded = encode_examples(fitted.spec, data, fitted.heads)
    with torch.no_grad():
        first, second = fitted.module.each(encoded.user, encoded.post, encoded.cross)
        mean = (first + second) / 2
    assert (first - second).abs().max() > 1e-3
    served = load_second_stage(fitted.save(tmp_path, {}))
    np.testing.assert_allclose(predict_logits(served, data.columns), mean.numpy(), atol=1e-5)


def test_an_unknown_head_is_named(data):
    run = SecondStageRun(replace(NETWORK, heads=("clik",)), LOOP)
    with pytest.raises(ValueError, match="clik"):
        fit_second_stage(data, data, data, spec_of(data), run, 0, None, 1)


def test_a_missing_column_is_named(data):
    short = replace(data, columns={n: v for n, v in data.columns.items() if n != "cross__match"})
    with pytest.raises(ValueError, match="cross__match"):
        fit_second_stage(short, data, data, spec_of(data), SecondStageRun(NETWORK, LOOP), 0, None, 1)


def test_a_head_that_was_never_observed_does_not_disturb_the_others(data):
    fitted = fit_second_stage(data, data, data, spec_of(data), SecondStageRun(NETWORK, LOOP), 0, None, 1)
    assert np.isfinite(fitted.metrics["auc_click"])
    assert np.isnan(fitted.metrics["auc_save"])
    assert fitted.calibrators[HEADS.index("save")].rows == 0
    assert all(np.isfinite(entry["valid_loss"]) for entry in fitted.history)


def test_training_does_not_touch_the_global_generator(data):
    import torch

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit_retrieval(data, data, spec_of(data, False), RetrievalConfig(TOWERS, LOOP), 0, None, 1)
    assert torch.equal(torch.rand(3), expected)


def test_rows_with_weight_zero_teach_nothing(data):
    """Labels turned round on half of the rows, which weigh nothing, leave the signal as it was."""
    turned = data.labels.copy()
    turned[::2] = 1 - turned[::2]
    weights = np.ones(data.num_rows, dtype=np.float32)
    weights[::2] = 0
    run = SecondStageRun(NETWORK, replace(LOOP, max_epochs=8, learning_rate=1e-2))
    with_weights = fit_second_stage(
        replace(data, labels=turned, weights=weights), data, data, spec_of(data), run, 0, None, 1
    )
    without = fit_second_stage(replace(data, labels=turned), data, data, spec_of(data), run, 0, None, 1)
    assert with_weights.metrics["auc_click"] > 0.8
    assert without.metrics["auc_click"] < 0.7


def test_task_labels_add_up_what_a_row_is_worth():
    labels = np.zeros((3, len(HEADS)), dtype=np.float32)
    labels[0, HEADS.index("like")] = 1
    labels[1, HEADS.index("like")] = labels[1, HEADS.index("see_less")] = 1
    labels[2, HEADS.index("click")] = np.nan
    tasks = task_labels(labels, ("positive", "click"))
    assert tasks[:, 0].tolist() == [1.0, 0.0, 0.0]
    assert np.isnan(tasks[2, 1])
    with pytest.raises(ValueError, match="clik"):
        task_labels(labels, ("clik",))


def test_retrieval_learns_from_positives_alone(data):
    worth = (data.labels[:, HEADS.index("click")] > 0).nonzero()[0]
    fitted = fit_retrieval(data.take(worth), data, spec_of(data, False), RetrievalConfig(TOWERS, LOOP), 0, None, 1)
    assert np.isfinite(fitted.metrics["recall_at_100"])


def test_the_selected_are_the_first_k_or_half_of_a_short_request():
    ranks = np.array([0, 1, 2, 3, 0, 1, 0], dtype=np.float32)
    sizes = np.array([4, 4, 4, 4, 2, 2, 1])
    assert select_labels(ranks, sizes, 100).tolist() == [1, 1, 0, 0, 1, 0, 1]
    assert select_labels(ranks, sizes, 1).tolist() == [1, 0, 0, 0, 1, 0, 1]


def test_the_first_stage_does_not_care_how_candidates_are_ordered():
    train = examples(900, 1, True, with_candidates=True)
    order = np.random.default_rng(0).permutation(900)
    run = FirstStageRun(FirstStageConfig(TOWERS, top_k=5), LOOP)
    spec = spec_of(train, False)
    plain = fit_first_stage(train, train, spec, run, 0, None, 1)
    mixed = fit_first_stage(train.take(order), train.take(order), spec, run, 0, None, 1)
    assert plain.metrics["auc_selected"] == pytest.approx(mixed.metrics["auc_selected"], abs=0.03)


def test_the_first_stage_wants_ranks(data):
    with pytest.raises(ValueError, match="candidate__rank"):
        fit_first_stage(data, data, spec_of(data, False), FirstStageRun(), 0, None, 1)


def test_the_first_stage_refuses_cross_features(data):
    with pytest.raises(ValueError, match="cross__match"):
        build_first_stage(spec_of(data), FirstStageConfig(), is_training=True)


def test_examples_refuse_columns_of_other_lengths(data):
    with pytest.raises(ValueError, match="post__age"):
        replace(data, columns=dict(data.columns) | {"post__age": np.zeros(3)})
    with pytest.raises(ValueError, match="labels have shape"):
        Examples({}, np.zeros((2, 3), np.float32), *(np.zeros(2, np.int64),) * 3, np.zeros(2))
