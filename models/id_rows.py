"""Ids to rows of a table, by the table's choice of hashing.

plain            `rows_of_ids`: dense ids take their own row, others are hashed.
multi            two hashed rows per id, averaged (`models/multi_hash.py`).
zero_collision   ids that training met have a row each (`models/own_rows.py`), all others share rows.

With a `min_count` above 1 ids that training met less often share rows as well, whatever the hashing.
Row 0 is null, the shared rows follow, then the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.hashing import hashed_ids, rows_of_ids
from models.multi_hash import NUM_CODES
from models.own_rows import RowOwners, no_owners, rows_owned
from models.rare_ids import CountSketch

Hashing = Literal["plain", "multi", "zero_collision"]


@dataclass(frozen=True)
class IdRows:
    """What a table knows of the ids that training met."""

    owners: NDArray[np.int64] | None = None
    """Id of each row of one's own, -1 none; for zero_collision."""
    sketch: CountSketch | None = None
    """Occurrences, to tell rare ids; where those are told apart by hashing's other kinds."""

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The arrays by name, as a bundle keeps them."""
        found: dict[str, NDArray[np.generic]] = {}
        if self.owners is not None:
            found["owners"] = self.owners
        if self.sketch is not None:
            found["counts"] = self.sketch.counters
        return found

    @staticmethod
    def from_arrays(arrays: Mapping[str, NDArray[np.generic]]) -> "IdRows":
        """What `arrays` gave."""
        counts = arrays.get("counts")
        return IdRows(arrays.get("owners"), None if counts is None else CountSketch(counts))  # type: ignore[arg-type]


def rows_of_table(
    ids: NDArray[np.int64],
    table: str,
    num_rows: int,
    hashing: Hashing = "plain",
    min_count: int = 1,
    num_shared: int = 1,
    known: IdRows | None = None,
) -> NDArray[np.int64]:
    """Row of each id (multi: code of each id), same shape; a negative id is null and takes row 0.

    Raises ValueError where the table needs to know ids and `known` does not.
    """
    size = NUM_CODES if hashing == "multi" else num_rows
    if hashing != "zero_collision" and min_count == 1:
        if hashing == "plain":
            return rows_of_ids(ids, table, size)
        return np.where(ids < 0, 0, rows_of_ids(ids, table, size - num_shared) + num_shared)
    shared = hashed_ids(ids, table, num_shared + 1)
    if hashing == "zero_collision":
        owned = rows_owned(_needed(known, table).owners, ids)  # type: ignore[arg-type]
        rows = np.where(owned >= 0, owned + 1 + num_shared, shared)
    else:
        is_frequent = _needed(known, table).sketch.counts(ids) >= min_count  # type: ignore[union-attr]
        rows = np.where(is_frequent, rows_of_ids(ids, table, size - num_shared) + num_shared, shared)
    return np.where(ids < 0, 0, rows)


def _needed(known: IdRows | None, table: str) -> IdRows:
    if known is None:
        raise ValueError(f"table {table} has rows for the ids of training, and none were fitted (`with_known_ids`)")
    return known


def known_ids(
    ids_N: NDArray[np.int64],
    counts_N: NDArray[np.int64],
    num_rows: int,
    hashing: Hashing,
    min_count: int,
    num_shared: int,
) -> IdRows:
    """What a table knows after training met distinct `ids_N` so many times; the most frequent get rows first."""
    if hashing != "zero_collision":
        sketch = CountSketch.sized_for(len(ids_N))
        sketch.add(ids_N, counts_N)
        return IdRows(sketch=sketch)
    owners = RowOwners(no_owners(num_rows - 1 - num_shared), "lfu")
    owners.admit(ids_N, counts_N, 1, counts_N >= min_count)
    return IdRows(owners.owners)
