"""The second stage: a multi-task multi-label network that predicts every engagement of a user with a post.

Embeddings of ids, binned numeric inputs, target attention over the user's history, low-rank cross layers
(DCN-v2), a shared trunk (or a mixture of experts) and one tower per head. Several such networks, trained
on the same batches from different starts, may be averaged. What belongs to the user is computed once per request.
Legend: B rows, R requests, L entries of history, W inputs, E experts, H heads.
Source: Wang et al., DCN V2, WWW 2021; Ma et al., MMoE, KDD 2018.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.schema import HEADS
from models.bins import NumericBins
from models.embeddings import EntryTables, PlainTables
from models.encode import EncodedSide
from models.features import SIDES, FeatureSpec, Side
from models.history import TargetAttention
from models.inputs import embedding_pairs, indexed_rows, plain_embeddings
from models.request_grid import RequestGrid, request_grid
from models.sequence import SequenceConfig


@dataclass(frozen=True)
class SecondStageConfig:
    """Shape of the network."""

    heads: tuple[str, ...] = HEADS
    num_cross_layers: int = 2
    cross_rank: int = 32
    trunk: tuple[int, ...] = (256, 128)
    head_hidden: int = 32
    num_experts: int = 1
    """1 is a shared bottom; more is a multi-gate mixture of experts."""
    dropout: float = 0.1
    history_length: int = 20
    history_encoder: Literal["none", "pooled", "transformer", "hstu"] = "none"
    """What entries of the history know of those before them when the target reads them."""
    history_dim: int = 64
    history_layers: int = 1
    history_heads: int = 2
    num_networks: int = 1
    """More than one are averaged: what a small training set leaves to chance then cancels out."""

    def sequence_encoder(self) -> SequenceConfig | None:
        """Shape of the history's encoder, None for none."""
        if self.history_encoder == "none":
            return None
        return SequenceConfig(
            self.history_encoder,
            self.history_dim,
            self.history_length,
            self.history_layers,
            self.history_heads,
            self.dropout,
        )


class CrossLayers(nn.Module):
    """x <- x0 * (U V x + b) + x, repeated; U V of low rank."""

    def __init__(self, width: int, rank: int, count: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Linear(width, rank, bias=False) for _ in range(count))
        self.up = nn.ModuleList(nn.Linear(rank, width) for _ in range(count))

    def forward(self, x0_BW: Tensor) -> Tensor:
        x_BW = x0_BW
        for down, up in zip(self.down, self.up, strict=True):
            x_BW = torch.addcmul(x_BW, x0_BW, up(down(x_BW)))
        return x_BW


class SecondStage(nn.Module):
    """Logits of all heads for posts and the users they are shown to: the mean of its networks.

    `user` has a row per request and `user_of` [B] says whose each post is; without it, one user has all posts or
    each post its own.
    """

    def __init__(self, spec: FeatureSpec, config: SecondStageConfig, *, is_training: bool) -> None:
        super().__init__()
        self.networks = nn.ModuleList(
            Network(spec, config, is_training=is_training) for _ in range(config.num_networks)
        )

    def forward(
        self, user: EncodedSide, post: EncodedSide, cross: EncodedSide, user_of: Tensor | None = None
    ) -> Tensor:
        """Logits [B, H]."""
        return torch.stack(self.each(user, post, cross, user_of)).mean(0)

    def each(
        self, user: EncodedSide, post: EncodedSide, cross: EncodedSide, user_of: Tensor | None = None
    ) -> list[Tensor]:
        """Logits [B, H] of every network."""
        grid = request_grid(user_of, user.num_rows, post.num_rows)
        return [network(user, post, cross, grid) for network in self._networks()]

    def start_from(
        self, user: EncodedSide, post: EncodedSide, cross: EncodedSide, user_of: Tensor, rates_H: Tensor
    ) -> None:
        """Sets what training rows decide before the first step: bin edges, and biases at each head's rate."""
        # A request counts as often as it has posts.
        numeric = {"user": user.numeric.index_select(0, user_of), "post": post.numeric, "cross": cross.numeric}
        for network in self._networks():
            for side, bins in network.side_bins().items():
                bins.fit_edges(numeric[side])
            with torch.no_grad():
                network.bias_H.copy_(rates_H.logit())

    def _networks(self) -> list["Network"]:
        return list(self.networks)  # type: ignore[arg-type]


class Network(nn.Module):
    """One network of the second stage."""

    def __init__(self, spec: FeatureSpec, config: SecondStageConfig, *, is_training: bool) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        self.tables = EntryTables(spec) if is_training else PlainTables(spec)
        sequences = spec.side("user", "sequence")
        groups = sorted({f.group for f in sequences if f.group})
        self.attention = nn.ModuleList(
            TargetAttention(spec, tuple(f for f in sequences if f.group == group), config.sequence_encoder())
            for group in groups
        )
        self.pooled = {side: [f for f in spec.side(side) if f.is_indexed and not f.group] for side in SIDES}
        self.bins = nn.ModuleDict({side: NumericBins(spec.numeric_width(side)) for side in SIDES})
        self.plain = {side: plain_embeddings(spec, side) for side in SIDES}
        self.pairs = embedding_pairs(spec)
        width = sum(spec.numeric_width(side) + bins.width for side, bins in self.side_bins().items())
        width += sum(part.stop - part.start for parts in self.plain.values() for part in parts) + len(self.pairs)
        width += sum(f.dim for features in self.pooled.values() for f in features)
        width += sum(block.width for block in self.attention)  # type: ignore[misc]
        self.cross = CrossLayers(width, config.cross_rank, config.num_cross_layers)
        self.experts = nn.ModuleList(_trunk(width, config) for _ in range(config.num_experts))
        heads, out = len(config.heads), config.trunk[-1]
        self.gate = nn.Linear(width, heads * config.num_experts) if config.num_experts > 1 else None
        self.head_in_HOK = nn.Parameter(torch.randn(heads, out, config.head_hidden) * (2.0 / out) ** 0.5)
        self.head_in_bias_HK = nn.Parameter(torch.zeros(heads, config.head_hidden))
        self.head_out_HK = nn.Parameter(torch.randn(heads, config.head_hidden) * config.head_hidden**-0.5 * 0.1)
        self.bias_H = nn.Parameter(torch.zeros(heads))

    def forward(self, user: EncodedSide, post: EncodedSide, cross: EncodedSide, grid: RequestGrid) -> Tensor:
        """Logits [B, H]."""
        rows = indexed_rows(self.spec, "user", user) | indexed_rows(self.spec, "post", post)
        vectors = self.tables.embed(rows) if rows else {}
        parts = [grid.repeat(self._side("user", user, vectors, rows)), self._side("post", post, vectors, rows)]
        parts.append(self._side("cross", cross, vectors, rows).expand(post.num_rows, -1))
        parts += [block(vectors, rows, grid) for block in self.attention]
        for of_user, of_post in self.pairs:
            product_BD = grid.repeat(user.embeddings[:, of_user]) * post.embeddings[:, of_post]
            parts.append(product_BD.sum(1, keepdim=True) * product_BD.shape[1] ** -0.5)
        x_BW = self.cross(torch.cat(parts, dim=1))
        return self._heads(x_BW)

    def side_bins(self) -> dict[Side, NumericBins]:
        return {side: self.bins[side] for side in SIDES}  # type: ignore[misc]

    def _side(
        self, side: Side, encoded: EncodedSide, vectors: Mapping[str, Tensor], rows: Mapping[str, Tensor]
    ) -> Tensor:
        parts = [encoded.numeric, self.bins[side](encoded.numeric)]
        parts += [encoded.embeddings[:, part] for part in self.plain[side]]
        for f in self.pooled[side]:
            if f.kind == "categorical":
                parts.append(vectors[f.name].squeeze(1))
                continue
            is_entry_BL = (rows[f.name] >= 0).to(torch.float32)
            total_BD = (vectors[f.name] * is_entry_BL.unsqueeze(2)).sum(1)
            parts.append(total_BD / is_entry_BL.sum(1, keepdim=True).clamp(min=1))
        return torch.cat(parts, dim=1)

    def _heads(self, x_BW: Tensor) -> Tensor:
        if self.gate is None:
            hidden_1BO = self.experts[0](x_BW).unsqueeze(0)
        else:
            experts_BEO = torch.stack([expert(x_BW) for expert in self.experts], dim=1)
            gates_BHE = self.gate(x_BW).view(len(x_BW), -1, len(self.experts)).softmax(2)
            hidden_1BO = torch.bmm(gates_BHE, experts_BEO).transpose(0, 1)
        towers_HBK = F.relu(torch.matmul(hidden_1BO, self.head_in_HOK) + self.head_in_bias_HK.unsqueeze(1))
        return (towers_HBK * self.head_out_HK.unsqueeze(1)).sum(2).T + self.bias_H


def _trunk(width: int, config: SecondStageConfig) -> nn.Sequential:
    layers: list[nn.Module] = []
    for out in config.trunk:
        layers += [nn.Linear(width, out), nn.LayerNorm(out), nn.ReLU(), nn.Dropout(config.dropout)]
        width = out
    return nn.Sequential(*layers)
