"""The two-tower network: a user vector and a post vector whose inner product is the score.

Legend: B users, N posts, D dimensions of the towers, T tasks. Vectors have D + 1 entries: the last of
the user is 1 and the last of the post is its bias, so that an inner-product index gives the score.
A side may have an identity: a categorical feature whose table row of D + 1 entries is added to what the
other features give, vector and bias, so that a post or user can be placed where only its own events say.
Source: Yi et al., Sampling-bias-corrected neural modeling, RecSys 2019.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.embeddings import PlainTables, PooledTables, Pools, training_tables
from models.encode import EncodedSide
from models.features import Feature, FeatureSpec, Side
from models.history import HistoryStates
from models.inputs import dense_width, indexed_rows, indexed_width
from models.sequence import SequenceConfig
from models.sharded import ShardedTables


@dataclass(frozen=True)
class TowerConfig:
    """Shape of both towers."""

    dim: int = 64
    hidden: tuple[int, ...] = (128,)
    dropout: float = 0.0
    temperature: float = 0.1
    """Initial; inner products of unit vectors are divided by it."""
    is_temperature_learned: bool = True
    history_encoder: Literal["none", "pooled", "transformer", "hstu"] = "none"
    """What reads the user's histories entry by entry, in order, beside their means."""
    history_dim: int = 64
    history_layers: int = 1
    history_heads: int = 2
    user_identity: str = ""
    """Name of the feature that is the user's identity; "" for none."""
    post_identity: str = ""

    def identity(self, side: Side) -> str:
        """Name of the identity feature of one side, or ""."""
        return {"user": self.user_identity, "post": self.post_identity}.get(side, "")

    def sequence_encoder(self, length: int) -> SequenceConfig:
        """Shape of the encoder of a history of so many entries."""
        if self.history_encoder == "none":
            raise ValueError("no encoder was chosen: history_encoder is none")
        shape = (self.history_dim, length, self.history_layers, self.history_heads, self.dropout)
        return SequenceConfig(self.history_encoder, *shape)


def moved(vectors_BD: Tensor, near_BD: Tensor | None) -> Tensor:
    """Each vector plus its length times `near_BD`."""
    return vectors_BD if near_BD is None else vectors_BD + vectors_BD.norm(dim=1, keepdim=True) * near_BD


class Tower(nn.Module):
    """Features of one side to a unit vector [B, D] and a bias [B]."""

    def __init__(self, spec: FeatureSpec, side: Side, config: TowerConfig) -> None:
        super().__init__()
        self.spec, self.side, self.dim = spec, side, config.dim
        self.identity = config.identity(side)
        width = indexed_width(spec, side) + dense_width(spec, side)
        if self.identity:
            width -= _checked_identity(spec, side, config)
        if width == 0 and not self.identity:
            raise ValueError(f"the {side} tower has no features")
        self.histories = _histories(spec, config) if side == "user" else nn.ModuleDict()
        width += len(self.histories) * config.history_dim
        self.reads_features = width > 0
        if not self.reads_features:
            return
        layers: list[nn.Module] = []
        for hidden in config.hidden:
            layers += [nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Dropout(config.dropout)]
            width = hidden
        self.trunk = nn.Sequential(*layers)
        self.out = nn.Linear(width, config.dim)
        self.bias = nn.Linear(width, 1)
        nn.init.zeros_(self.bias.weight)
        nn.init.zeros_(self.bias.bias)

    def forward(self, encoded: EncodedSide, tables: Pools, near_BD: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`near_BD` is added to the identity, in its lengths."""
        rows = indexed_rows(self.spec, self.side, encoded)
        pooled = tables.pool(rows) if rows else {}
        own_BE = pooled.pop(self.identity, None)
        read = [*pooled.values(), *(history(rows, tables) for history in self.histories.values())]
        vector_BD, bias_B = self._of_features(encoded, read, encoded.num_rows)
        if own_BE is not None:
            vector_BD, bias_B = vector_BD + moved(own_BE[:, :-1], near_BD), bias_B + own_BE[:, -1]
        return F.normalize(vector_BD, dim=1), bias_B

    def _of_features(self, encoded: EncodedSide, pooled: list[Tensor], num_rows: int) -> tuple[Tensor, Tensor]:
        if not self.reads_features:
            return encoded.numeric.new_zeros(num_rows, self.dim), encoded.numeric.new_zeros(num_rows)
        hidden = self.trunk(torch.cat([encoded.numeric, encoded.embeddings, *pooled], dim=1))
        # Lengths and inner products are in float32 whatever the layers computed in.
        return self.out(hidden).float(), self.bias(hidden).squeeze(1).float()


class HistoryReader(nn.Module):
    """One aligned group of history sequences to the state of its newest entry, [B, dim]; zeros without entries."""

    def __init__(self, group: tuple[Feature, ...], config: SequenceConfig) -> None:
        super().__init__()
        self.names = tuple(f.name for f in group)
        self.states = HistoryStates(sum(f.dim for f in group), config)

    def forward(self, rows: Mapping[str, Tensor], tables: Pools) -> Tensor:
        own = {name: rows[name] for name in self.names}
        vectors = tables.embed(own)
        is_entry_BL = torch.stack([own[name] >= 0 for name in self.names]).any(0)
        newest_BD: Tensor = self.states(torch.cat([vectors[name] for name in self.names], dim=2), is_entry_BL)[1]
        return newest_BD


def _histories(spec: FeatureSpec, config: TowerConfig) -> nn.ModuleDict:
    """A reader per group of the user's sequences. Raises ValueError where an encoder finds nothing to read."""
    if config.history_encoder == "none":
        return nn.ModuleDict()
    sequences = [f for f in spec.side("user", "sequence") if f.group]
    if not sequences:
        raise ValueError("history_encoder reads aligned user sequences, but none of the features names a group")
    groups = {f.group: tuple(g for g in sequences if g.group == f.group) for f in sequences}
    return nn.ModuleDict(
        {name: HistoryReader(group, config.sequence_encoder(group[0].length)) for name, group in groups.items()}
    )


def _checked_identity(spec: FeatureSpec, side: Side, config: TowerConfig) -> int:
    """Width of the identity's rows. Raises ValueError for a feature that cannot be one."""
    name = config.identity(side)
    for f in spec.side(side, "categorical"):
        if f.name == name and f.dim == config.dim + 1:
            return f.dim
    raise ValueError(
        f"identity {name} of the {side} tower is no categorical {side} feature with rows of {config.dim + 1}, "
        "the tower's width and a bias"
    )


class TwoTower(nn.Module):
    """Both towers over shared tables, and one affine reading of the score per task."""

    def __init__(self, spec: FeatureSpec, config: TowerConfig, num_tasks: int, *, is_training: bool) -> None:
        super().__init__()
        self.spec = spec
        self.tables = training_tables(spec, PooledTables) if is_training else PlainTables(spec)
        self.user_tower = Tower(spec, "user", config)
        self.post_tower = Tower(spec, "post", config)
        self.log_scale = nn.Parameter(
            torch.tensor(1.0 / config.temperature).log(), requires_grad=config.is_temperature_learned
        )
        self.task_scale_T = nn.Parameter(torch.ones(num_tasks))
        self.task_bias_T = nn.Parameter(torch.zeros(num_tasks))

    def identity_table(self, side: Side) -> nn.Parameter:
        """Identities of one side, [rows, D + 1]."""
        return self.tables.weight(self._identity(side))

    def identity_rows(self, side: Side, encoded: EncodedSide) -> Tensor:
        """Row of the identity table that each example reads, [B] int64."""
        return indexed_rows(self.spec, side, encoded)[self._identity(side)][:, 0].long()

    def _identity(self, side: Side) -> str:
        return (self.user_tower if side == "user" else self.post_tower).identity

    def user_vectors(self, user: EncodedSide) -> Tensor:
        """[B, D + 1], scaled by the temperature; the user's own bias cannot change a ranking and is left out."""
        unit_BD, _ = self.user_tower(user, self.tables)
        return torch.cat([unit_BD * self.log_scale.exp(), torch.ones_like(unit_BD[:, :1])], dim=1)

    def post_vectors(self, post: EncodedSide, near_ND: Tensor | None = None, tables: Pools | None = None) -> Tensor:
        """[N, D + 1], the last entry is the post's bias; identities moved by `near_ND`."""
        unit_ND, bias_N = self.post_tower(post, tables or self.tables, near_ND)
        return torch.cat([unit_ND, bias_N[:, None]], dim=1)

    def pairs(self, user: EncodedSide, post: EncodedSide) -> tuple[Tensor, Tensor, Tensor]:
        """`user_parts` and `post_vectors`; spread tables are read once for both sides."""
        tables: Any = self.tables
        if isinstance(tables, ShardedTables):
            sides = indexed_rows(self.spec, "user", user), indexed_rows(self.spec, "post", post)
            tables = tables.read_once(sides[0] | sides[1])
        return *self.user_parts(user, tables), self.post_vectors(post, tables=tables)

    def user_parts(self, user: EncodedSide, tables: Pools | None = None) -> tuple[Tensor, Tensor]:
        """User vectors [B, D + 1] and the user's bias [B], which probabilities need and rankings do not."""
        unit_BD, bias_B = self.user_tower(user, tables or self.tables)
        return torch.cat([unit_BD * self.log_scale.exp(), torch.ones_like(unit_BD[:, :1])], dim=1), bias_B

    def task_logits(self, score_B: Tensor, user_bias_B: Tensor) -> Tensor:
        """Logit of each task [B, T] for scores of matched pairs."""
        return (score_B + user_bias_B)[:, None] * self.task_scale_T + self.task_bias_T
