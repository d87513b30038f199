"""The second stage with its users once per request, and the encoders of their history."""

from dataclasses import replace

import pytest
import torch

from models.encode import EncodedSide
from models.features import Feature, FeatureSpec
from models.history import HistoryAttention, oldest_first
from models.second_stage import CrossStep, SecondStage, SecondStageConfig
from tests.planted_examples import examples, spec_of
from training.encoded_examples import encode_examples

NETWORK = SecondStageConfig(
    heads=("click", "like"), cross_rank=4, trunk=(16, 8), head_hidden=4, history_length=6, history_dim=8, dropout=0.0
)
ENCODERS = ("none", "pooled", "transformer", "hstu")


@pytest.fixture(scope="module")
def requests():
    """Sixty posts of requests of one to seven posts, the users of the first post of each."""
    data = examples(60, 0, True)
    encoded = encode_examples(spec_of(data), data, NETWORK.heads)
    sizes = torch.arange(60) % 7 + 1
    user_of = torch.arange(60).repeat_interleave(sizes)[:60]
    return data, replace(encoded, user=encoded.user.take(torch.arange(int(user_of[-1]) + 1)), user_of=user_of)


def network(data, encoder, is_training=True):
    torch.manual_seed(0)
    module = SecondStage(spec_of(data), replace(NETWORK, history_encoder=encoder), is_training=is_training)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if "leave" in name:  # starts at zero, and would hide what the encoder says
                weight.normal_()
    return module


@pytest.mark.parametrize("encoder", ENCODERS)
def test_users_once_per_request_give_what_users_on_every_row_give(requests, encoder):
    data, shared = requests
    module = network(data, encoder)
    repeated = shared.user.take(shared.user_of)
    logits = module(*shared.sides)
    torch.testing.assert_close(logits, module(repeated, shared.post, shared.cross))
    one = [shared.user.take(torch.tensor([3])), *(side.take(torch.arange(6, 10)) for side in shared.sides[1:3])]
    assert shared.user_of[6:10].tolist() == [3] * 4
    torch.testing.assert_close(module(*one), logits[6:10])


@pytest.mark.parametrize("encoder", ENCODERS)
def test_both_ways_learn_the_same(requests, encoder):
    data, shared = requests
    learned = []
    for user, user_of in ((shared.user, shared.user_of), (shared.user.take(shared.user_of), None)):
        module = network(data, encoder)
        module(user, shared.post, shared.cross, user_of).square().sum().backward()
        grads = [p.grad for name, p in module.named_parameters() if "kernel" not in name]
        learned.append((grads, list(module.networks[0].tables.export().values())))
    torch.testing.assert_close(learned[0], learned[1], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("encoder", ENCODERS[1:])
def test_entries_know_of_those_before_them(requests, encoder):
    """The second-newest entry changes what an encoder says of the newest."""
    data, _ = requests
    attention = network(data, encoder).networks[0].attention[0].encoder
    entries = torch.randn(2, 6, 20)
    is_entry = torch.tensor([[True] * 3 + [False] * 3, [False] * 6])
    changed = entries.clone()
    changed[0, 1] += 1.0
    (said, newest), (other, _) = attention(entries, is_entry), attention(changed, is_entry)
    assert not torch.allclose(said[0, 0], other[0, 0])
    torch.testing.assert_close(said[0, 2], other[0, 2])
    assert newest[1].abs().sum() == 0
    padded = entries.clone()
    padded[0, 3:] = 9.0
    torch.testing.assert_close(attention(padded, is_entry)[0][0, :3], said[0, :3])


def test_histories_are_turned_round_and_padding_stays():
    is_entry = torch.tensor([[True, True, True, False], [True, False, True, False], [False] * 4])
    assert oldest_first(is_entry).tolist() == [[2, 1, 0, 3], [2, 1, 0, 3], [0, 1, 2, 3]]


def test_the_product_of_two_vectors_of_a_group_is_all_that_is_read_of_them():
    pair = [Feature(name, side, "embedding", dim=4, group="g") for name, side in (("u", "user"), ("p", "post"))]
    torch.manual_seed(0)
    module = SecondStage(FeatureSpec(tuple(pair)), NETWORK, is_training=False).eval()
    user, post = torch.randn(2, 4), torch.randn(2, 4)
    turned, _ = torch.linalg.qr(torch.randn(4, 4))

    def logits(user, post):
        nothing = {"numeric": torch.empty(2, 0), "ids": torch.empty(2, 0, dtype=torch.int64), "sequences": {}}
        sides = [EncodedSide(embeddings=values, **nothing) for values in (user, post, torch.empty(2, 0))]
        return module(*sides)

    assert torch.allclose(logits(user, post), logits(user @ turned, post @ turned), atol=1e-6)
    assert not torch.allclose(logits(user, post), logits(user, post @ turned), atol=1e-3)


def test_the_gradients_of_attention_and_cross_layers_are_those_of_their_values():
    generator = torch.Generator().manual_seed(3)
    history, query, bias = (
        torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True)
        for shape in ((3, 4, 2), (3, 2, 2), (3, 4))
    )
    assert torch.autograd.gradcheck(HistoryAttention.apply, (history, query, bias))
    assert torch.autograd.gradcheck(
        CrossStep.apply, [part.detach().requires_grad_() for part in (bias, bias + 1, bias.exp())]
    )
