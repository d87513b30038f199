"""Which ids training met and how often, for the tables whose rows depend on it."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models.features import Columns, FeatureSpec
from models.id_rows import known_ids


def id_counts(spec: FeatureSpec, columns: Columns, table: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct ids of all columns that read `table`, and their occurrences; sequences count as far as they are read.

    Raises ValueError for a column that holds no ids.
    """
    parts = []
    for f in spec.features:
        if f.table != table or not f.is_indexed:
            continue
        values = columns[f.column]
        if values.dtype.kind not in "iu":
            raise ValueError(f"column {f.column} has dtype {values.dtype}; table {table} counts ids, integers")
        parts.append(np.unique(values[:, : f.length] if values.ndim == 2 else values, return_counts=True))
    ids, which = np.unique(np.concatenate([ids for ids, _ in parts]), return_inverse=True)
    counts = np.bincount(which, weights=np.concatenate([counts for _, counts in parts]), minlength=len(ids))
    return ids[ids >= 0].astype(np.int64), counts[ids >= 0].astype(np.int64)


def fit_ids(spec: FeatureSpec, columns: Columns) -> FeatureSpec:
    """The spec with what its tables need to know of the ids in `columns`, which are all training rows."""
    found = {}
    for t in spec.tables:
        if t.counts_ids:
            ids, counts = id_counts(spec, columns, t.name)
            found[t.name] = known_ids(ids, counts, t.num_rows, t.hashing, t.min_count, t.num_shared)
    return replace(spec, ids=found) if found else spec
