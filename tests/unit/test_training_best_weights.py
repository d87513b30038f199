import pytest
import torch

from models.embeddings import live_state
from models.second_stage import SecondStage, SecondStageConfig
from tests.planted_examples import examples, spec_of
from training.best_weights import BestWeights


def test_what_was_kept_last_comes_back_to_the_bit():
    torch.manual_seed(0)
    config = SecondStageConfig(cross_rank=4, trunk=(16, 8), head_hidden=4, num_networks=2)
    module = SecondStage(spec_of(examples(50, 0, True)), config, is_training=True)
    with BestWeights(module) as best:
        best.keep()
        with torch.no_grad():
            for weight in live_state(module).values():
                weight.add_(1.0)
        best.keep()
        kept = {name: weight.clone() for name, weight in live_state(module).items()}
        with torch.no_grad():
            for weight in live_state(module).values():
                weight.mul_(-3.0)
        best.restore()
    assert len(kept) > 20
    for name, weight in live_state(module).items():
        assert torch.equal(weight, kept[name]), name


def test_weights_that_do_not_lie_in_a_row_are_refused():
    module = torch.nn.Linear(3, 2)
    module.weight = torch.nn.Parameter(torch.randn(3, 2).T)
    with pytest.raises(ValueError, match=r"\(2, 3\) are not contiguous"):
        BestWeights(module)
