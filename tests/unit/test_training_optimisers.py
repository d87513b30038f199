import torch

from models.embeddings import live_state
from models.second_stage import SecondStage, SecondStageConfig
from tests.planted_examples import examples, spec_of
from training.encoded_examples import encode_examples
from training.optimisers import Optimisers


def test_the_rate_of_a_step_is_the_one_set_before_its_loss():
    """The fused tables take their rate along from the forward pass; a rate set later would come a step late."""
    data = examples(60, 0, True)
    config = SecondStageConfig(("click",), cross_rank=4, trunk=(16, 8), head_hidden=4)
    torch.manual_seed(0)
    module = SecondStage(spec_of(data), config, is_training=True)
    batch = encode_examples(spec_of(data), data, config.heads)
    optimisers = Optimisers(module, 0.01, 0.01, 0.0, 5.0)
    changes = []
    for factor in (0.0, 1.0, 0.0):
        before = {name: value.clone() for name, value in live_state(module).items()}
        optimisers.set_rates(factor)
        optimisers.step(module(*batch.sides).square().sum())
        changes.append({name for name, value in live_state(module).items() if not torch.equal(value, before[name])})
    assert changes[0] == changes[2] == set()
    tables = {name for name in before if ".tables." in name}
    assert tables <= changes[1]
    assert len(changes[1]) > len(tables) + 10
