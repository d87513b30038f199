"""What the heads of the second stage share: one bottom, a mixture of experts, or layered extraction.

Every trunk turns inputs [B, W] into hidden [H, B, O], or [1, B, O] where all heads read the same.
Legend: B rows, W inputs, O outputs, E experts, G task groups, H heads.
Source: Ma et al., MMoE, KDD 2018; Tang et al., PLE, RecSys 2020.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TrunkKind = Literal["shared", "mmoe", "ple"]


def build_trunk(
    kind: TrunkKind,
    width: int,
    layers: Sequence[int],
    num_experts: int,
    groups: Sequence[int],
    dropout: float,
) -> nn.Module:
    """A trunk for one group number per head. Raises ValueError for an unknown kind or no experts."""
    if kind == "shared":
        return SharedBottom(width, layers, dropout)
    if num_experts < 1:
        raise ValueError(f"num_experts is {num_experts}; a {kind} trunk needs at least one")
    if kind == "mmoe":
        return MixtureOfExperts(width, layers, num_experts, len(groups), dropout)
    if kind == "ple":
        return LayeredExtraction(width, layers, num_experts, groups, dropout)
    raise ValueError(f"trunk_kind is {kind!r}, expected shared, mmoe or ple")


class SharedBottom(nn.Module):
    """One stack of layers for all heads."""

    def __init__(self, width: int, layers: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.layers = _stack(width, layers, dropout)

    def forward(self, x_BW: Tensor) -> Tensor:
        hidden_BO: Tensor = self.layers(x_BW)
        return hidden_BO.unsqueeze(0)


class MixtureOfExperts(nn.Module):
    """Experts of full depth; each head weighs them by a gate of its own."""

    def __init__(self, width: int, layers: Sequence[int], num_experts: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.experts = nn.ModuleList(_stack(width, layers, dropout) for _ in range(num_experts))
        self.gate = nn.Linear(width, num_heads * num_experts)

    def forward(self, x_BW: Tensor) -> Tensor:
        experts_BEO = torch.stack([expert(x_BW) for expert in self.experts], dim=1)
        gates_BHE = self.gate(x_BW).view(len(x_BW), -1, len(self.experts)).softmax(2)
        return torch.bmm(gates_BHE, experts_BEO).transpose(0, 1)


class LayeredExtraction(nn.Module):
    """Progressive layered extraction: in every layer a group of heads reads its own experts and the shared ones.

    What the shared experts make of all groups passes on beside the groups' own, so that heads which disagree part
    early and rare heads still learn from frequent ones.
    """

    def __init__(
        self, width: int, layers: Sequence[int], num_experts: int, groups: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        numbers = sorted(set(groups))
        self.group_of = [numbers.index(group) for group in groups]
        widths = [width, *layers]
        self.layers = nn.ModuleList(
            _Extraction(inside, out, num_experts, len(numbers), dropout, is_last=at == len(layers) - 1)
            for at, (inside, out) in enumerate(zip(widths, layers, strict=False))
        )

    def forward(self, x_BW: Tensor) -> Tensor:
        inputs = [x_BW] * (max(self.group_of) + 2)
        for layer in self.layers:
            inputs = layer(inputs)
        return torch.stack([inputs[group] for group in self.group_of])


class _Extraction(nn.Module):
    """One layer; inputs and outputs are the groups' in order, then the shared one (which the last layer drops)."""

    def __init__(
        self, width: int, out: int, num_experts: int, num_groups: int, dropout: float, *, is_last: bool
    ) -> None:
        super().__init__()
        self.experts = nn.ModuleList(
            nn.ModuleList(_stack(width, (out,), dropout) for _ in range(num_experts)) for _ in range(num_groups + 1)
        )
        self.gates = nn.ModuleList(nn.Linear(width, 2 * num_experts) for _ in range(num_groups))
        self.shared_gate = None if is_last else nn.Linear(width, num_experts * (num_groups + 1))

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        made = [
            torch.stack([expert(x_BW) for expert in experts], dim=1)  # type: ignore[attr-defined]
            for experts, x_BW in zip(self.experts, inputs, strict=True)
        ]
        shared_BEO = made[-1]
        outputs = [
            _weighed(gate(x_BW), torch.cat([own_BEO, shared_BEO], dim=1))
            for gate, x_BW, own_BEO in zip(self.gates, inputs, made, strict=False)
        ]
        if self.shared_gate is not None:
            outputs.append(_weighed(self.shared_gate(inputs[-1]), torch.cat(made, dim=1)))
        return outputs


def _weighed(logits_BE: Tensor, experts_BEO: Tensor) -> Tensor:
    return torch.bmm(F.softmax(logits_BE, dim=1).unsqueeze(1), experts_BEO).squeeze(1)


def _stack(width: int, layers: Sequence[int], dropout: float) -> nn.Sequential:
    parts: list[nn.Module] = []
    for out in layers:
        parts += [nn.Linear(width, out), nn.LayerNorm(out), nn.ReLU(), nn.Dropout(dropout)]
        width = out
    return nn.Sequential(*parts)
