import pytest
import torch

from models.trunk import build_trunk


@pytest.mark.parametrize(("kind", "rows"), [("shared", 1), ("mmoe", 3), ("ple", 3)])
def test_every_trunk_gives_hidden_per_head_or_one_for_all(kind, rows):
    trunk = build_trunk(kind, 5, (8, 4), 2, (0, 1, 1), 0.0)
    assert trunk(torch.rand(7, 5)).shape == (rows, 7, 4)


def gradient_of_head(trunk, head, part):
    trunk.zero_grad()
    trunk(torch.rand(6, 5, generator=torch.Generator().manual_seed(0)))[head].sum().backward()
    return sum(float(p.grad.abs().sum()) for p in part.parameters() if p.grad is not None)


def test_layered_extraction_keeps_the_experts_of_one_group_from_the_others_but_through_the_shared_layer():
    """Last layer: own and shared experts only. First layer: another group's experts reach through the shared gate."""
    torch.manual_seed(0)
    trunk = build_trunk("ple", 5, (8, 4), 2, (0, 1, 1), 0.0)
    first, last = trunk.layers
    assert gradient_of_head(trunk, 0, last.experts[0]) > 0
    assert gradient_of_head(trunk, 0, last.experts[2]) > 0, "the shared ones"
    assert gradient_of_head(trunk, 0, last.experts[1]) == 0, "the other group's"
    assert gradient_of_head(trunk, 0, first.experts[1]) > 0, "through the shared gate"


def test_heads_of_one_group_read_the_same_and_heads_of_two_do_not():
    torch.manual_seed(0)
    hidden = build_trunk("ple", 5, (8, 4), 1, (4, 9, 9), 0.0)(torch.rand(6, 5))
    assert torch.equal(hidden[1], hidden[2])
    assert not torch.allclose(hidden[0], hidden[1])


def test_one_expert_makes_the_mixture_a_shared_bottom():
    torch.manual_seed(0)
    mixture = build_trunk("mmoe", 5, (8, 4), 1, (0, 1), 0.0)
    x = torch.rand(6, 5)
    torch.testing.assert_close(mixture(x)[1], mixture.experts[0](x))


def test_an_unknown_kind_and_a_mixture_of_nothing_are_refused():
    with pytest.raises(ValueError, match="cross-stitch"):
        build_trunk("cross-stitch", 5, (8,), 2, (0,), 0.0)
    with pytest.raises(ValueError, match="at least one"):
        build_trunk("ple", 5, (8,), 0, (0,), 0.0)
