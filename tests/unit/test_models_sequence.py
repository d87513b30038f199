import pytest
import torch

from models.sequence import NextPost, SequenceConfig, SequenceEncoder

KINDS = ("pooled", "transformer", "hstu")


def encoder(kind, **more):
    torch.manual_seed(0)
    return SequenceEncoder(SequenceConfig(kind, dim=8, length=12, num_heads=2, **more)).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_depends_on_nothing_that_comes_later(kind):
    entries = torch.randn(3, 10, 8)
    changed = entries.clone()
    changed[:, 6:] += torch.randn(3, 4, 8)
    states, others = encoder(kind)(entries), encoder(kind)(changed)
    torch.testing.assert_close(states[:, :6], others[:, :6])
    assert (states[:, 6:] - others[:, 6:]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_user_vector_does_not_change_with_the_padding(kind):
    torch.manual_seed(0)
    module = NextPost(20, SequenceConfig(kind, dim=8, length=12)).eval()
    short, long = torch.tensor([[3, 5, 7]]), torch.tensor([[3, 5, 7, 0, 0, 0]])
    torch.testing.assert_close(module.user_vectors(short), module.user_vectors(long))


def test_the_pooled_state_is_the_mean_so_far_by_hand():
    config = SequenceConfig("pooled", dim=2, length=3, num_heads=1)
    module = SequenceEncoder(config).eval()
    with torch.no_grad():
        module.place_LD.zero_()
    means = module.blocks[0](torch.tensor([[[2.0, 0.0], [4.0, 6.0], [0.0, 0.0]]]))
    assert means.tolist() == [[[2.0, 0.0], [3.0, 3.0], [2.0, 2.0]]]


def test_a_width_that_heads_cannot_share_is_refused():
    with pytest.raises(ValueError, match="9 is no multiple of 2"):
        SequenceEncoder(SequenceConfig(dim=9))


def test_work_grows_with_length_and_layers():
    assert encoder("transformer").flops(8) > encoder("hstu").flops(8) > encoder("pooled").flops(8)
    assert encoder("transformer", num_layers=4).flops(8) == 2 * encoder("transformer").flops(8)
    # One layer, width 8: 12 D^2 weights and two products of L x L x D, each multiplied and added.
    assert encoder("transformer", num_layers=1).flops(4) == 2 * 4 * 12 * 64 + 4 * 4 * 4 * 8
