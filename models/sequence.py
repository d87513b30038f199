"""Encoders of a user's history: one state per entry, made of that entry and those before it.

Entries come oldest first and padded at the end, so that no entry can see padding. Three kinds:
pooled, the running mean; transformer, causal self-attention; hstu, pointwise gated attention.
Legend: B rows, L entries, D width, H attention heads, K width of one attention head.
Source: Kang and McAuley, Self-attentive sequential recommendation, ICDM 2018; Zhai et al., Actions speak
louder than words (HSTU), ICML 2024.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.cost import forward_flops

EncoderKind = Literal["pooled", "transformer", "hstu"]


@dataclass(frozen=True)
class SequenceConfig:
    """Shape of an encoder."""

    kind: EncoderKind = "transformer"
    dim: int = 64
    length: int = 50
    """Entries read; older ones are left out."""
    num_layers: int = 2
    num_heads: int = 2
    dropout: float = 0.3


class SequenceEncoder(nn.Module):
    """Entries [B, L, D] to states [B, L, D]."""

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__()
        if config.dim % config.num_heads:
            raise ValueError(f"width {config.dim} is no multiple of {config.num_heads} heads")
        self.config = config
        blocks = {"pooled": _RunningMean, "transformer": _TransformerBlock, "hstu": _HstuBlock}
        count = 1 if config.kind == "pooled" else config.num_layers
        self.blocks = nn.ModuleList(blocks[config.kind](config) for _ in range(count))
        self.place_LD = nn.Parameter(torch.randn(config.length, config.dim) * 0.02)
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, entries_BLD: Tensor) -> Tensor:
        x_BLD = self.dropout(entries_BLD + self.place_LD[: entries_BLD.shape[1]])
        for block in self.blocks:
            x_BLD = block(x_BLD)
        states_BLD: Tensor = self.norm(x_BLD)
        return states_BLD

    def flops(self, length: int) -> int:
        """Operations of one history of `length` entries, as `models/cost.py` counts them: a running mean has none."""
        return forward_flops(lambda: self(torch.zeros(1, length, self.config.dim)))


class _RunningMean(nn.Module):
    def __init__(self, config: SequenceConfig) -> None:
        super().__init__()

    def forward(self, x_BLD: Tensor) -> Tensor:
        counts_L1 = torch.arange(1, x_BLD.shape[1] + 1, device=x_BLD.device).unsqueeze(1)
        return x_BLD.cumsum(1) / counts_L1


class _TransformerBlock(nn.Module):
    """Pre-norm causal attention and a feed-forward layer."""

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__()
        dim = config.dim
        self.num_heads, self.rate = config.num_heads, config.dropout
        self.attention_norm, self.forward_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BLD: Tensor) -> Tensor:
        q, k, v = (_heads(part, self.num_heads) for part in self.qkv(self.attention_norm(x_BLD)).chunk(3, dim=2))
        rate = self.rate if self.training else 0.0
        read_BHLK = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=rate)
        x_BLD = x_BLD + self.dropout(self.out(read_BHLK.transpose(1, 2).flatten(2)))
        hidden = self.dropout(F.gelu(self.up(self.forward_norm(x_BLD))))
        updated_BLD: Tensor = x_BLD + self.dropout(self.down(hidden))
        return updated_BLD


class _HstuBlock(nn.Module):
    """Pointwise attention without softmax, so that how often counts too, gated by the entry itself."""

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__()
        dim = config.dim
        self.num_heads = config.num_heads
        self.norm, self.read_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.uqkv, self.out = nn.Linear(dim, 4 * dim), nn.Linear(dim, dim)
        self.distance_HL = nn.Parameter(torch.zeros(config.num_heads, config.length))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BLD: Tensor) -> Tensor:
        length = x_BLD.shape[1]
        gate_BLD, *qkv = F.silu(self.uqkv(self.norm(x_BLD))).chunk(4, dim=2)
        q, k, v = (_heads(part, self.num_heads) for part in qkv)
        places_L = torch.arange(length, device=x_BLD.device)
        back_LL = places_L[:, None] - places_L[None, :]
        bias_HLL = self.distance_HL[:, back_LL.clamp(min=0)]
        weights_BHLL = F.silu(q @ k.transpose(2, 3) + bias_HLL) * (back_LL >= 0) / (places_L + 1)[:, None]
        read_BLD = (weights_BHLL @ v).transpose(1, 2).flatten(2)
        updated_BLD: Tensor = x_BLD + self.dropout(self.out(self.read_norm(read_BLD) * gate_BLD))
        return updated_BLD


def _heads(x_BLD: Tensor, num_heads: int) -> Tensor:
    """[B, H, L, K]"""
    return x_BLD.view(*x_BLD.shape[:2], num_heads, -1).transpose(1, 2)


class NextPost(nn.Module):
    """A user's state after each entry, and posts it can be compared with: the next one should score highest.

    Row 0 of the table is padding.
    """

    def __init__(self, num_posts: int, config: SequenceConfig) -> None:
        super().__init__()
        self.config = config
        self.posts = nn.Embedding(num_posts + 1, config.dim)
        nn.init.normal_(self.posts.weight, std=0.02)
        self.encoder = SequenceEncoder(config)

    def states(self, posts_BL: Tensor) -> Tensor:
        """[B, L, D] for rows of posts, oldest first."""
        states_BLD: Tensor = self.encoder(self.posts(posts_BL) * self.config.dim**0.5)
        return states_BLD

    def user_vectors(self, posts_BL: Tensor) -> Tensor:
        """The state after the last entry, [B, D]; every row needs one."""
        last_B = (posts_BL > 0).sum(1) - 1
        return self.states(posts_BL)[torch.arange(len(posts_BL), device=posts_BL.device), last_B]

    def post_vectors(self) -> Tensor:
        """[P, D], without padding."""
        return self.posts.weight[1:]
