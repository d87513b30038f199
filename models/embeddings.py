"""Embedding tables: TorchRec's collections and kernels for training, and their plain-torch twin for inference.

Both answer to one interface, keyed by feature name, so that a network is written once:
`pool` gives one vector per row (mean over entries, -1 is padding), `embed` one vector per entry.
Legend: B rows, L entries per row, D width of the feature's table.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.features import FeatureSpec
from models.fused import FusedTable
from models.multi_hash import HASHES, rows_of_hashes
from models.sharded import ShardedTables, is_sharded

T = TypeVar("T", "PooledTables", "EntryTables")
SPARSE_GRADIENT_VALUES = 4_000_000
"""Pooled tables from this many values get sparse gradients; below it a dense gradient is faster to apply."""


class Pools(Protocol):
    """What a tower asks of embedding tables."""

    def pool(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Mean vector per row and feature, [B, D]; a row without entries gives zeros."""

    def embed(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Vector per entry and feature, [B, L, D]; padding gives the vector of row 0."""


class Tables(Pools, Protocol):
    """What a network asks of its embedding tables."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """The trainable weights."""

    def export(self) -> dict[str, Tensor]:
        """Weights as `PlainTables` names them."""


class PlainTables(nn.Module):
    """The inference twin: one `nn.Embedding` per table, nothing but torch."""

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__()
        self.weights = nn.ModuleDict({t.name: nn.Embedding(t.num_rows, t.dim) for t in spec.tables})
        self._table_of = {feature: t.name for t in spec.tables for feature in t.features}
        self._hashes = Hashes(spec)

    def weight(self, feature: str) -> nn.Parameter:
        """The table that a feature reads, [rows, D]."""
        weight: nn.Parameter = self.weights[self._table_of[feature]].weight  # type: ignore[assignment]
        return weight

    def pool(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        pooled = {}
        for name, rows_BL in self._hashes.spread(rows).items():
            if rows_BL.shape[1] == 1:
                present_B1 = (rows_BL >= 0).to(torch.float32)
                pooled[name] = F.embedding(rows_BL[:, 0].clamp(min=0), self.weight(name)) * present_B1
                continue
            present_BL = rows_BL >= 0
            if len(rows_BL) == 1:  # one user of a request: a bag's bookkeeping would cost more than its sum
                found_MD = F.embedding(rows_BL[present_BL], self.weight(name))
                pooled[name] = found_MD.sum(0, keepdim=True) / max(len(found_MD), 1)
                continue
            offsets_B = present_BL.sum(1).cumsum(0).roll(1)
            offsets_B[:1] = 0
            pooled[name] = F.embedding_bag(rows_BL[present_BL].long(), self.weight(name), offsets_B, mode="mean")
        return pooled

    def embed(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        spread = self._hashes.spread(rows)
        found = {name: F.embedding(rows_BL.clamp(min=0), self.weight(name)) for name, rows_BL in spread.items()}
        return self._hashes.gathered(found)

    def export(self) -> dict[str, Tensor]:
        return dict(self.state_dict())


class Hashes:
    """Entries to the several rows that each has in a table hashed more than once, and their vectors back to one."""

    def __init__(self, spec: FeatureSpec) -> None:
        self._tables = {f: t for t in spec.tables if t.hashing == "multi" for f in t.features}

    def spread(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """[B, L] codes of such a feature to rows [B, L * HASHES]; other features as they are."""
        return {
            name: rows_of_hashes(rows_BL, t.num_rows, t.num_shared) if (t := self._tables.get(name)) else rows_BL
            for name, rows_BL in rows.items()
        }

    def gathered(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """[B, L * HASHES, D] of such a feature to the mean per entry, [B, L, D]."""
        return {
            name: v.view(len(v), -1, HASHES, v.shape[2]).mean(2) if name in self._tables else v
            for name, v in vectors.items()
        }


def _torchrec() -> Any:
    """The library, imported late: inference never needs it, and its import warns of GPU-only kernels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchrec
    # TorchRec asks whether it is being traced, and torch logs advice about that question once.
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    return torchrec


class PooledTables(nn.Module):
    """Training tables that pool: a TorchRec EmbeddingBagCollection with mean pooling.

    `pool` may be asked for some of the features; the others get empty bags, so that the two towers
    can share tables although their batches differ in rows.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__()
        torchrec = _torchrec()
        self._tables = spec.tables
        self._features = [feature for t in spec.tables for feature in t.features]
        self._table_of = {feature: t.name for t in spec.tables for feature in t.features}
        self._keyed = torchrec.KeyedJaggedTensor
        self.collection = torchrec.EmbeddingBagCollection(
            tables=[
                torchrec.EmbeddingBagConfig(
                    name=t.name,
                    embedding_dim=t.dim,
                    num_embeddings=t.num_rows,
                    feature_names=list(t.features),
                    pooling=torchrec.PoolingType.MEAN,
                )
                for t in spec.tables
            ]
        )
        self._hashes = Hashes(spec)
        for t in spec.tables:
            self.collection.embedding_bags[t.name].sparse = t.num_rows * t.dim >= SPARSE_GRADIENT_VALUES

    def pool(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        rows = self._hashes.spread(rows)
        some = next(iter(rows.values()))
        nothing = some.new_zeros(len(some), dtype=torch.int64)
        values, lengths = [], []
        for feature in self._features:
            if feature not in rows:
                lengths.append(nothing)
                continue
            present_BL = rows[feature] >= 0
            values.append(rows[feature][present_BL])
            lengths.append(present_BL.sum(1))
        bags = self._keyed(keys=self._features, values=torch.cat(values).long(), lengths=torch.cat(lengths))
        pooled = self.collection(bags).to_dict()
        return {feature: pooled[feature] for feature in rows}

    def embed(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {}
        for feature, rows_BL in self._hashes.spread(rows).items():
            is_sparse = self.collection.embedding_bags[self._table_of[feature]].sparse
            found[feature] = F.embedding(rows_BL.clamp(min=0), self.weight(feature), sparse=is_sparse)
        return self._hashes.gathered(found)

    def weight(self, feature: str) -> nn.Parameter:
        """The table that a feature reads, [rows, D]."""
        weight: nn.Parameter = self.collection.embedding_bags[self._table_of[feature]].weight
        return weight

    def export(self) -> dict[str, Tensor]:
        bags: Any = self.collection.embedding_bags
        return {f"weights.{t.name}.weight": bags[t.name].weight for t in self._tables}


class EntryTables(nn.Module):
    """Training tables that keep every entry and learn as the loss is differentiated (`models/fused.py`).

    `embed` reads each table once, for all of its features together; features may differ in rows.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__()
        self._tables = spec.tables
        self.fused = nn.ModuleDict({t.name: FusedTable(t.name, t.num_rows, t.dim) for t in spec.tables})
        self._hashes = Hashes(spec)

    def set_learning_rate(self, rate: float) -> None:
        """The rate at which all tables learn what is read from now on."""
        for table in self.fused.values():
            table.set_learning_rate(rate)  # type: ignore[operator]

    def sums(self) -> dict[str, Tensor]:
        """Adagrad's sums by table, [rows], as views."""
        return {name: table.sums for name, table in self.fused.items()}  # type: ignore[misc]

    def pool(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        raise NotImplementedError("entry tables do not pool; build the network on PooledTables")

    def embed(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        embedded: dict[str, Tensor] = {}
        rows = self._hashes.spread(rows)
        for t in self._tables:
            shapes = {f: rows[f].shape for f in t.features if f in rows}
            if not shapes:
                continue
            entries_M = torch.cat([rows[f].reshape(-1) for f in shapes]).clamp_(min=0)
            found = self.fused[t.name](entries_M).split([shape.numel() for shape in shapes.values()])
            for (feature, shape), vectors in zip(shapes.items(), found, strict=True):
                embedded[feature] = vectors.view(*shape, t.dim)
        return self._hashes.gathered(embedded)

    def export(self) -> dict[str, Tensor]:
        return {f"weights.{name}.weight": table.weight for name, table in self.fused.items()}  # type: ignore[misc]


def training_tables(spec: FeatureSpec, kind: type[T]) -> T:
    """Tables of the given kind to train, or those spread over the processes that train together."""
    return ShardedTables(spec) if is_sharded() else kind(spec)  # type: ignore[return-value]


def table_modules(module: nn.Module) -> dict[str, Tables]:
    """The embedding tables inside a network, by their place in it."""
    kinds = (PlainTables, PooledTables, EntryTables, ShardedTables)
    return {name: part for name, part in module.named_modules() if isinstance(part, kinds)}


@torch.no_grad()
def start_tables(module: nn.Module, weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Gives every table of a network that has the name and shape of one of `weights` its values; names of those.

    Raises ValueError where several processes train together and each has a part of a table only.
    """
    if weights and is_sharded():
        raise ValueError("tables that start from another model's lie in one process; train without torchrun")
    started = dict[str, None]()
    for part in table_modules(module).values():
        for path, mine in part.export().items():
            name = path.split(".")[1]
            if name in weights and weights[name].shape == mine.shape:
                mine.copy_(weights[name])
                started[name] = None
    return tuple(started)


def live_state(module: nn.Module) -> dict[str, Tensor]:
    """What a network has learned, under the names its inference twin has: the weights themselves, no copies."""
    tables = table_modules(module)
    prefixes = tuple(f"{place}." for place in tables)
    state = {name: value for name, value in module.state_dict().items() if not name.startswith(prefixes)}
    for place, part in tables.items():
        state |= {f"{place}.{name}": value for name, value in part.export().items()}
    return {name: value.detach() for name, value in state.items()}


def export_state(module: nn.Module) -> dict[str, Tensor]:
    """Copies of a network's `live_state`, contiguous."""
    return {name: value.clone().contiguous() for name, value in live_state(module).items()}
