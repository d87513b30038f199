"""The user's history: encoded once per request; in the second stage then read by each of its posts.

Legend: B posts, R requests, P lines and C columns of their grid (models/request_grid.py), L entries of history, newest
first, D width of history and target, E width of an entry with what only shifts the attention.
Source: Zhou et al., Deep interest network, KDD 2018.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.features import Feature, FeatureSpec
from models.precision import lowered
from models.request_grid import RequestGrid
from models.sequence import SequenceConfig, SequenceEncoder


class HistoryStates(nn.Module):
    """Entries [R, L, E] to states [R, L, dim], each of that entry and those before it, and the newest one [R, dim]."""

    def __init__(self, width_in: int, config: SequenceConfig) -> None:
        super().__init__()
        self.enter = nn.Linear(width_in, config.dim)
        self.encoder = SequenceEncoder(config)

    def forward(self, entries_RLE: Tensor, is_entry_RL: Tensor) -> tuple[Tensor, Tensor]:
        order_RL = oldest_first(is_entry_RL)
        states_RLD = _reorder(self.encoder(_reorder(self.enter(entries_RLE), order_RL)), order_RL)
        return states_RLD, states_RLD[:, 0] * is_entry_RL.any(1, keepdim=True)


class HistoryEncoder(HistoryStates):
    """The same with states as wide as what they are added to, [R, L, D]."""

    def __init__(self, width_in: int, width_out: int, config: SequenceConfig) -> None:
        super().__init__(width_in, config)
        self.leave = nn.Linear(config.dim, width_out)
        # Training starts from the history as it is and learns what to add.
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, entries_RLE: Tensor, is_entry_RL: Tensor) -> tuple[Tensor, Tensor]:
        states_RLD, newest_RD = super().forward(entries_RLE, is_entry_RL)
        return self.leave(states_RLD), newest_RD


def oldest_first(is_entry_RL: Tensor) -> Tensor:
    """Places that turn each row's entries round and leave its padding at the end, [R, L]; twice is once none."""
    places_L = torch.arange(is_entry_RL.shape[1], device=is_entry_RL.device)
    length_R1 = (is_entry_RL * (places_L + 1)).amax(1, keepdim=True)
    return torch.where(places_L < length_R1, length_R1 - 1 - places_L, places_L)


def _reorder(x_RLD: Tensor, order_RL: Tensor) -> Tensor:
    first_R1 = torch.arange(len(x_RLD), device=x_RLD.device).unsqueeze(1) * x_RLD.shape[1]
    return x_RLD.flatten(0, 1).index_select(0, (order_RL + first_R1).flatten()).view_as(x_RLD)


class HistoryAttention(torch.autograd.Function):
    """Softmax attention over a history that is key and value at once, [P, C, D]; all inputs of one type.

    Its gradient is one product of twice the depth where autograd makes two as large as the history and adds them.
    """

    @staticmethod
    def forward(ctx: Any, history_PLD: Tensor, query_PCD: Tensor, bias_PL: Tensor) -> Tensor:
        with torch.autocast(history_PLD.device.type, enabled=False):
            logits_PCL = torch.baddbmm(bias_PL.unsqueeze(1), query_PCD, history_PLD.transpose(1, 2))
            weights_PCL = logits_PCL.softmax(2)
            ctx.save_for_backward(history_PLD, query_PCD, weights_PCL)
            return torch.bmm(weights_PCL, history_PLD)

    @staticmethod
    def backward(ctx: Any, grad_PCD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        history_PLD, query_PCD, weights_PCL = ctx.saved_tensors
        of_weights_PCL = torch.bmm(grad_PCD, history_PLD.transpose(1, 2))
        of_logits_PCL = torch._softmax_backward_data(of_weights_PCL, weights_PCL, 2, weights_PCL.dtype)
        of_history_PLD = torch.bmm(
            torch.cat([weights_PCL, of_logits_PCL], dim=1).transpose(1, 2), torch.cat([grad_PCD, query_PCD], dim=1)
        )
        return of_history_PLD, torch.bmm(of_logits_PCL, history_PLD), of_logits_PCL.sum(1)


class TargetAttention(nn.Module):
    """Reads one aligned group of history sequences with the candidate as the query.

    Sequences whose table a post feature also reads meet that feature; the others (such as the kind of
    engagement) only shift the attention. With an encoder, entries know of those before them, and the
    newest state is an input of its own.
    """

    def __init__(self, spec: FeatureSpec, group: tuple[Feature, ...], encoder: SequenceConfig | None = None) -> None:
        super().__init__()
        post_by_table = {f.table: f for f in reversed(spec.side("post", "categorical"))}
        self.pairs = [(f.name, post_by_table[f.table].name) for f in group if f.table in post_by_table]
        self.shifts = [f.name for f in group if f.table not in post_by_table]
        if not self.pairs:
            names = ", ".join(f.name for f in group)
            raise ValueError(f"sequences {names} share no table with a post feature, so no target can read them")
        dims = {f.name: f.dim for f in group}
        dim = sum(dims[name] for name, _ in self.pairs)
        self.scale_D = nn.Parameter(torch.full((dim,), dim**-0.5))
        self.shift = nn.ModuleDict({str(i): nn.Linear(dims[name], 1) for i, name in enumerate(self.shifts)})
        self.encoder = None if encoder is None else HistoryEncoder(sum(dims.values()), dim, encoder)
        self.width = 2 * dim + len(self.pairs) + (0 if encoder is None else encoder.dim)

    def forward(self, vectors: Mapping[str, Tensor], rows: Mapping[str, Tensor], grid: RequestGrid) -> Tensor:
        """[B, width]: attended history, its product with the target, a match per pair, and the newest state."""
        history_RLD = torch.cat([lowered(vectors[name]) for name, _ in self.pairs], dim=2)
        target_BD = torch.cat([vectors[name].squeeze(1) for _, name in self.pairs], dim=1)
        is_entry_RL = torch.stack([rows[name] >= 0 for name, _ in self.pairs]).any(0)
        newest = []
        if self.encoder is not None:
            entries_RLE = torch.cat([history_RLD, *(lowered(vectors[name]) for name in self.shifts)], dim=2)
            added_RLD, newest_RD = self.encoder(entries_RLE, is_entry_RL)
            history_RLD = history_RLD + added_RLD
            newest.append(grid.repeat(newest_RD))
        # A user without history attends to nothing: the large negative keeps softmax finite, the mask zeroes it.
        bias_RL = (~is_entry_RL) * -1e9
        for i, name in enumerate(self.shifts):
            bias_RL = bias_RL + self.shift[str(i)](vectors[name]).squeeze(2)
        history_PLD, is_entry_PL = grid.lines(history_RLD), grid.lines(is_entry_RL)
        query_PCD = grid.spread(lowered(target_BD * self.scale_D))
        read_PCD: Tensor = HistoryAttention.apply(history_PLD, query_PCD, lowered(grid.lines(bias_RL)))  # type: ignore[no-untyped-call]
        pooled_PCD = read_PCD * is_entry_PL.any(1)[:, None, None]
        pooled_BD = grid.collect(pooled_PCD)
        matches_BP = self._matches(rows, is_entry_PL, grid)
        return torch.cat([pooled_BD, pooled_BD * target_BD, matches_BP, *newest], dim=1)

    def _matches(self, rows: Mapping[str, Tensor], is_entry_PL: Tensor, grid: RequestGrid) -> Tensor:
        """Share of history entries that are the very target, per pair, [B, pairs]."""
        count_P1 = is_entry_PL.sum(1, keepdim=True).clamp(min=1)
        shares = []
        for sequence, target in self.pairs:
            target_PC1 = grid.spread(rows[target])
            # Row 0 is null on both sides, and two unknowns are no match.
            same_PCL = (grid.lines(rows[sequence]).unsqueeze(1) == target_PC1) & (target_PC1 > 0)
            shares.append(grid.collect(same_PCL.sum(2) / count_P1))
        return torch.stack(shares, dim=1)
