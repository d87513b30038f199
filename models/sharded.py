"""Embedding tables whose rows are spread over processes: row r lies with process r mod W, its Adagrad sum beside it.

A lookup sends row numbers to where the rows lie and gets vectors back, all tables in one exchange; gradients return the
same way and each process's kernel updates its own rows. Every process must look up equally often.
Legend: W processes, T tables, M entries, U different rows of a table, D width of a table.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from models.features import FeatureSpec
from models.fused import WIDTH_MULTIPLE, FusedTable


def is_sharded() -> bool:
    """Whether this process trains together with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rows_of_all(own_ND: Tensor) -> tuple[Tensor, int]:
    """The rows of all processes, one after the other, and where the own ones begin; gradients return to their rows."""
    world = dist.get_world_size()
    counts_W = torch.empty(world, dtype=torch.int64)
    dist.all_to_all_single(counts_W, torch.full((world,), len(own_ND)))
    counts, width = counts_W.tolist(), own_ND[:1].numel()
    copies = own_ND.reshape(1, -1).expand(world, -1).reshape(-1)
    out, back = [own_ND.numel()] * world, [count * width for count in counts]
    found: Tensor = _Exchange.apply(copies, out, back, 1.0)  # type: ignore[no-untyped-call]
    return found.view(-1, *own_ND.shape[1:]), sum(counts[: dist.get_rank()])


class ShardedTables(nn.Module):
    """This process's rows of every table; answers as `EntryTables` and as `PooledTables` do."""

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__()
        several = [t.name for t in spec.tables if t.hashing == "multi"]
        if several:
            raise ValueError(
                f"tables {', '.join(several)} are hashed more than once, which one process alone can train"
            )
        self.spec = spec
        self._world = dist.get_world_size()
        self.shards = nn.ModuleDict()
        seed = int(torch.randint(2**62, ()))  # the same everywhere, so that the processes' generators stay in step
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + dist.get_rank())
            for t in spec.tables:
                width = -(-t.dim // WIDTH_MULTIPLE) * WIDTH_MULTIPLE
                shard = FusedTable(t.name, -(-t.num_rows // self._world), width)
                shard.kernel.init_embedding_weights_uniform(-(t.num_rows**-0.5), t.num_rows**-0.5)
                self.shards[t.name] = shard

    def set_learning_rate(self, rate: float) -> None:
        """The rate at which all tables learn what is read from now on."""
        for shard in self._shards():
            shard.set_learning_rate(rate)

    def sums(self) -> dict[str, Tensor]:
        """Adagrad's sums of the rows that lie here, by table."""
        return {t.name: shard.sums for t, shard in zip(self.spec.tables, self._shards(), strict=True)}

    def export(self) -> dict[str, Tensor]:
        """The rows that lie here, as wide as the kernel keeps them."""
        return {f"shards.{t.name}": s.weight for t, s in zip(self.spec.tables, self._shards(), strict=True)}

    def gathered(self) -> dict[str, Tensor]:
        """Whole tables as `PlainTables` names them, in process 0; nothing in the others."""
        found = {}
        for t, shard in zip(self.spec.tables, self._shards(), strict=True):
            parts = [torch.empty_like(shard.weight) for _ in range(self._world)] if dist.get_rank() == 0 else None
            dist.gather(shard.weight.detach().contiguous(), parts, dst=0)
            if parts is not None:
                whole = torch.stack(parts, dim=1).flatten(0, 1)
                found[f"weights.{t.name}.weight"] = whole[: t.num_rows, : t.dim].contiguous()
        return found

    def embed(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        entries = {name: of.reshape(-1).clamp(min=0) for name, of in rows.items()}
        found = self._looked_up(entries)
        return {name: found[name][0][found[name][1]].view(*of.shape, -1) for name, of in rows.items()}

    def pool(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        present = {name: of >= 0 for name, of in rows.items()}
        found = self._looked_up({name: rows[name][is_in] for name, is_in in present.items()})
        pooled = {}
        for name in rows:  # in this order: towers join the vectors as they come
            vectors, at_M = found[name]
            ends_B = present[name].sum(1).cumsum(0)
            starts_B = torch.cat([ends_B.new_zeros(1), ends_B[:-1]])
            pooled[name] = F.embedding_bag(at_M, vectors, starts_B, mode="mean")
        return pooled

    def read_once(self, rows: Mapping[str, Tensor]) -> "ReadTables":
        """Tables that answer `pool` for some of these features each: one exchange, and one step of a table for all."""
        return ReadTables(self.pool(rows))

    def _shards(self) -> list[FusedTable]:
        return list(self.shards.values())  # type: ignore[arg-type]

    def _looked_up(self, entries: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """By feature the vectors [U, D] of its table's rows in this batch, and which of them each entry is, [M]."""
        wanted, places = [], {}
        for number, t in enumerate(self.spec.tables):
            features = [f for f in t.features if f in entries]
            together = torch.cat([entries[f] for f in features] or [torch.empty(0)]).long()
            unique_U, at = torch.unique(together, return_inverse=True)
            wanted.append(unique_U)
            for f, part in zip(features, at.split([len(entries[f]) for f in features]), strict=True):
                places[f] = number, t.dim, part
        vectors = self._exchanged(wanted)
        return {f: (vectors[number][:, :dim], part) for f, (number, dim, part) in places.items()}

    def _exchanged(self, wanted: list[Tensor]) -> list[Tensor]:
        """The vectors [U, D] of the wanted rows [U] of each table."""
        world, shards = self._world, self._shards()
        orders = [(rows % world).argsort(stable=True) for rows in wanted]
        counts_WT = torch.stack([torch.bincount(rows % world, minlength=world) for rows in wanted], dim=1)
        asked_WT = torch.empty_like(counts_WT)
        dist.all_to_all_single(asked_WT, counts_WT)
        sent, asked = counts_WT.tolist(), asked_WT.tolist()
        by_table = [
            torch.split((rows // world)[order], counts)
            for rows, order, counts in zip(wanted, orders, counts_WT.T.tolist(), strict=True)
        ]
        numbers = torch.cat([part for per_process in zip(*by_table, strict=True) for part in per_process])
        here = torch.empty(int(asked_WT.sum()), dtype=torch.int64)
        dist.all_to_all_single(here, numbers, [sum(n) for n in asked], [sum(n) for n in sent])
        pieces = _by_table(here, asked, [1] * len(shards))
        answers = [
            shard(torch.cat([part.view(-1) for part in of])).split([len(part) for part in of])
            for shard, of in zip(shards, pieces, strict=True)
        ]
        flat = torch.cat([part.reshape(-1) for per_process in zip(*answers, strict=True) for part in per_process])
        widths = [shard.weight.shape[1] for shard in shards]
        out, back = ([sum(n * w for n, w in zip(row, widths, strict=True)) for row in c] for c in (asked, sent))
        # A table learns from the mean of the processes' losses.
        returned: Tensor = _Exchange.apply(flat, out, back, 1.0 / world)  # type: ignore[no-untyped-call]
        return [
            torch.cat(of)[order.argsort()] for of, order in zip(_by_table(returned, sent, widths), orders, strict=True)
        ]


class ReadTables:
    """Pooled vectors that were looked up before they are asked for."""

    def __init__(self, pooled: Mapping[str, Tensor]) -> None:
        self._pooled = pooled

    def pool(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self._pooled[name] for name in rows}

    def embed(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        raise NotImplementedError("entries of a history are not looked up across processes; set history_encoder 'none'")


def _by_table(flat: Tensor, counts: list[list[int]], widths: list[int]) -> list[list[Tensor]]:
    """What came from each process, [T][W], each [n, D]: processes follow each other, within one its tables."""
    parts = iter(torch.split(flat, [n * width for row in counts for n, width in zip(row, widths, strict=True)]))
    by_process = [[next(parts).view(-1, width) for width in widths] for _ in counts]
    return [[of[t] for of in by_process] for t in range(len(widths))]


class _Exchange(torch.autograd.Function):
    """Sends pieces of a flat tensor to the processes; gradients go back, times a factor."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, out: list[int], back: list[int], factor: float) -> Tensor:
        ctx.splits, ctx.factor = (out, back), factor
        found = flat.new_empty(sum(back))
        dist.all_to_all_single(found, flat.contiguous(), back, out)
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        out, back = ctx.splits
        found = grad.new_empty(sum(out))
        dist.all_to_all_single(found, grad.contiguous(), out, back)
        return found * ctx.factor, None, None, None
