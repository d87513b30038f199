"""Which tables get rows without collisions, and from which count on, within so many bytes.

Greedy by impressions covered per byte: an id that was read oftener, or whose rows are narrower, comes first. Bytes are
those of training: weights, row-wise Adagrad's accumulator and the owner's id, over the share of rows that ids may fill.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.features import MIN_OWN_ROWS, Columns, Feature, FeatureSpec
from models.fit_ids import id_counts

MOST_FILLED = 0.8
"""Share of its rows that a table fills before ids are left over (`models/own_rows.py`)."""


@dataclass(frozen=True)
class TableCounts:
    """Occurrences [ids] of each id in training, and the table's width."""

    counts: NDArray[np.int64]
    dim: int

    @property
    def bytes_per_id(self) -> float:
        """Of an id with a row of its own."""
        return row_bytes(self.dim) / MOST_FILLED


@dataclass(frozen=True)
class TablePlan:
    """What one table gets: rows of their own for the ids met at least `min_count` times, or none (0 rows)."""

    num_own_ids: int
    num_rows: int
    min_count: int
    bytes: int
    covered_share: float
    """Share of the table's occurrences whose id has a row of its own."""


def row_bytes(dim: int) -> int:
    """Bytes of one row of its own."""
    return 4 * dim + 4 + 8


def plan_tables(tables: Mapping[str, TableCounts], budget_bytes: int) -> dict[str, TablePlan]:
    """A plan per table whose bytes together stay within the budget.

    Ids of one table and count are equally good; they all get rows or none of them does, and once one such group
    does not fit, neither do later ones of its table.
    """
    groups = []
    for name, table in tables.items():
        values, sizes = np.unique(table.counts, return_counts=True)
        groups += [(int(v) / table.bytes_per_id, name, int(v), int(n)) for v, n in zip(values, sizes, strict=True) if v]
    groups.sort(key=lambda group: (-group[0], group[1]))
    chosen: dict[str, tuple[int, int]] = {}
    is_full, left = set[str](), budget_bytes
    for _, name, count, size in groups:
        ids, _ = chosen.get(name, (0, 0))
        more = _bytes(ids + size, tables[name].dim) - _bytes(ids, tables[name].dim)
        if name in is_full or more > left:
            is_full.add(name)
            continue
        chosen[name] = ids + size, count
        left -= more
    return {name: _plan(table, *chosen.get(name, (0, 1))) for name, table in tables.items()}


def _num_rows(num_ids: int) -> int:
    """Rows of the table, null and the shared row included."""
    return 2 + max(MIN_OWN_ROWS - 1, 8 * -(-int(num_ids / MOST_FILLED) // 8)) if num_ids else 0


def _bytes(num_ids: int, dim: int) -> int:
    return _num_rows(num_ids) * row_bytes(dim)


def _plan(table: TableCounts, num_ids: int, min_count: int) -> TablePlan:
    covered = int(table.counts[table.counts >= min_count].sum()) if num_ids else 0
    share = covered / max(1, int(table.counts.sum()))
    return TablePlan(num_ids, _num_rows(num_ids), min_count, _bytes(num_ids, table.dim), share)


def counts_of_tables(features: Sequence[Feature], columns: Columns, names: Sequence[str]) -> dict[str, TableCounts]:
    """Occurrences of ids in training rows, for the tables `names`. Raises ValueError for columns without ids."""
    spec = FeatureSpec(tuple(features))
    dims = {t.name: t.dim for t in spec.tables}
    return {name: TableCounts(id_counts(spec, columns, name)[1], dims[name]) for name in names}


def with_plan(features: Sequence[Feature], plan: Mapping[str, TablePlan]) -> tuple[Feature, ...]:
    """The features with the tables of `plan` as planned; a table without rows of its own is hashed into few."""
    changed = []
    for f in features:
        chosen = plan.get(f.table)
        if chosen is None:
            changed.append(f)
        elif chosen.num_own_ids:
            rows, count = chosen.num_rows, min(chosen.min_count, 255)
            changed.append(replace(f, hashing="zero_collision", num_rows=rows, min_count=count))
        else:
            changed.append(replace(f, num_rows=min(f.num_rows, MIN_OWN_ROWS)))
    return tuple(changed)
