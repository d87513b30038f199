"""The second stage: a multi-task multi-label network that predicts every engagement of a user with a post.

Embeddings of ids, binned numeric inputs, target attention over the user's history, low-rank cross layers
(DCN-v2), a trunk (shared, mixture of experts or layered extraction) and one tower per head. Several such
networks, trained on the same batches from different starts, may be averaged. What belongs to the user is
computed once per request.
Legend: B rows, R requests, L entries of history, W inputs, H heads, K inputs of a last layer.
Source: Wang et al., DCN V2, WWW 2021.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.schema import HEADS
from models.bins import NumericBins
from models.embeddings import EntryTables, PlainTables, training_tables
from models.encode import EncodedSide
from models.features import SIDES, FeatureSpec, Side
from models.history import TargetAttention
from models.inputs import embedding_pairs, indexed_rows, plain_embeddings
from models.precision import lowered
from models.request_grid import RequestGrid, request_grid
from models.sequence import SequenceConfig
from models.trunk import TrunkKind, build_trunk

Sides = tuple[EncodedSide, EncodedSide, EncodedSide, Tensor | None]
"""User [R], post [B] and cross side, and each post's row of the users, [B]."""


@dataclass(frozen=True)
class SecondStageConfig:
    """Shape of the network."""

    heads: tuple[str, ...] = HEADS
    num_cross_layers: int = 2
    cross_rank: int = 32
    trunk: tuple[int, ...] = (256, 128)
    head_hidden: int = 32
    trunk_kind: TrunkKind = "shared"
    num_experts: int = 3
    """Of a mixture; of layered extraction per group of heads, and as many shared ones."""
    head_groups: tuple[int, ...] = ()
    """Group of each head in layered extraction; empty gives each its own."""
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


class CrossStep(torch.autograd.Function):
    """x + x0 * u. Autograd's own gradient of addcmul first multiplies both factors by one."""

    @staticmethod
    def forward(ctx: Any, x_BW: Tensor, x0_BW: Tensor, u_BW: Tensor) -> Tensor:
        ctx.save_for_backward(x0_BW, u_BW)
        return torch.addcmul(x_BW, x0_BW, u_BW)

    @staticmethod
    def backward(ctx: Any, grad_BW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x0_BW, u_BW = ctx.saved_tensors
        return grad_BW, grad_BW * u_BW, grad_BW * x0_BW


class CrossLayers(nn.Module):
    """x <- x0 * (U V x + b) + x, repeated; U V of low rank."""

    def __init__(self, width: int, rank: int, count: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Linear(width, rank, bias=False) for _ in range(count))
        self.up = nn.ModuleList(nn.Linear(rank, width) for _ in range(count))

    def forward(self, x0_BW: Tensor) -> Tensor:
        x_BW = x0_BW = lowered(x0_BW)
        for down, up in zip(self.down, self.up, strict=True):
            x_BW = CrossStep.apply(x_BW, x0_BW, up(down(x_BW)))  # type: ignore[no-untyped-call]
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

    def spread(self, user: EncodedSide, post: EncodedSide, cross: EncodedSide, user_of: Tensor | None = None) -> Tensor:
        """Standard deviation [B, H] of the logits, as far as the last layers' weights are unsure: for exploration.

        The root mean over networks of each one's variance. Before `fit_spread` it is the prior's.
        """
        grid = request_grid(user_of, user.num_rows, post.num_rows)
        variances = [network.variance(network.towers(user, post, cross, grid)) for network in self._networks()]
        return torch.stack(variances).mean(0).sqrt()

    def fit_spread(self, batches: Iterable[tuple[Sides, Tensor]], scale: float) -> None:
        """Takes in what the training rows tell the last layers: sides and labels [B, H] of a sample, 1 / its share."""
        self.eval()
        precisions = [network.prior_precision() for network in self._networks()]
        for sides, labels_BH in batches:
            for network, precision_HKK in zip(self._networks(), precisions, strict=True):
                network.add_precision(precision_HKK, sides, labels_BH, scale)
        for network, precision_HKK in zip(self._networks(), precisions, strict=True):
            network.covariance.copy_(torch.linalg.inv(precision_HKK))

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

    @torch.no_grad()
    def shift(self, logits_H: Tensor) -> None:
        """Adds to every network's logits, so that a loss which counted a class more often is put right."""
        for network in self._networks():
            network.bias_H.add_(logits_H)

    def _networks(self) -> list["Network"]:
        return list(self.networks)  # type: ignore[arg-type]


class Network(nn.Module):
    """One network of the second stage."""

    covariance: Tensor  # [H, K + 1, K + 1], of the last layers

    def __init__(self, spec: FeatureSpec, config: SecondStageConfig, *, is_training: bool) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        self.tables = training_tables(spec, EntryTables) if is_training else PlainTables(spec)
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
        heads, out = len(config.heads), config.trunk[-1]
        group_of = config.head_groups or tuple(range(heads))
        if len(group_of) != heads:
            raise ValueError(f"head_groups has {len(group_of)} numbers for {heads} heads; give one each, or none")
        self.trunk = build_trunk(config.trunk_kind, width, config.trunk, config.num_experts, group_of, config.dropout)
        self.head_in_HOK = nn.Parameter(torch.randn(heads, out, config.head_hidden) * (2.0 / out) ** 0.5)
        self.head_in_bias_HK = nn.Parameter(torch.zeros(heads, config.head_hidden))
        self.head_out_HK = nn.Parameter(torch.randn(heads, config.head_hidden) * config.head_hidden**-0.5 * 0.1)
        self.bias_H = nn.Parameter(torch.zeros(heads))
        self.register_buffer("covariance", self.prior_precision())

    def forward(self, user: EncodedSide, post: EncodedSide, cross: EncodedSide, grid: RequestGrid) -> Tensor:
        """Logits [B, H]."""
        return self._logits(self.towers(user, post, cross, grid))

    def towers(self, user: EncodedSide, post: EncodedSide, cross: EncodedSide, grid: RequestGrid) -> Tensor:
        """What the last layer of each head reads, [H, B, K]."""
        rows = indexed_rows(self.spec, "user", user) | indexed_rows(self.spec, "post", post)
        vectors = self.tables.embed(rows) if rows else {}
        parts = [grid.repeat(self._side("user", user, vectors, rows)), self._side("post", post, vectors, rows)]
        parts.append(self._side("cross", cross, vectors, rows).expand(post.num_rows, -1))
        parts += [block(vectors, rows, grid) for block in self.attention]
        for of_user, of_post in self.pairs:
            product_BD = grid.repeat(user.embeddings[:, of_user]) * post.embeddings[:, of_post]
            parts.append(product_BD.sum(1, keepdim=True) * product_BD.shape[1] ** -0.5)
        hidden_HBO = self.trunk(self.cross(torch.cat(parts, dim=1)))
        return F.relu(torch.matmul(hidden_HBO, self.head_in_HOK) + self.head_in_bias_HK.unsqueeze(1))

    def _logits(self, towers_HBK: Tensor) -> Tensor:
        return (towers_HBK * self.head_out_HK.unsqueeze(1)).sum(2).T + self.bias_H

    def prior_precision(self) -> Tensor:
        """Of the last layer's weights and bias, a standard normal each, [H, K + 1, K + 1]."""
        heads, width = self.head_out_HK.shape
        return torch.eye(width + 1).repeat(heads, 1, 1)

    @torch.no_grad()
    def add_precision(self, precision_HKK: Tensor, sides: Sides, labels_BH: Tensor, scale: float) -> None:
        """Adds the rows' curvature of the log likelihood (Laplace's approximation); unobserved labels add nothing."""
        user, post, cross, user_of = sides
        towers_HBK = self.towers(user, post, cross, request_grid(user_of, user.num_rows, post.num_rows))
        chance_BH = self._logits(towers_HBK).sigmoid()
        weight_BH = scale * chance_BH * (1 - chance_BH) * ~labels_BH.isnan()
        inputs_HBK = _with_one(towers_HBK)
        precision_HKK += inputs_HBK.transpose(1, 2) @ (inputs_HBK * weight_BH.T.unsqueeze(2))

    def variance(self, towers_HBK: Tensor) -> Tensor:
        """Of the logits, [B, H]. Source: MacKay, The evidence framework applied to classification networks, 1992."""
        inputs_HBK = _with_one(towers_HBK)
        return ((inputs_HBK @ self.covariance) * inputs_HBK).sum(2).T

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


def _with_one(towers_HBK: Tensor) -> Tensor:
    """A last input of 1, for the bias."""
    return F.pad(towers_HBK, (0, 1), value=1.0)
