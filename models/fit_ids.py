"""What a spec learns of ids before training: how often each was met, and the codebooks that make semantic ids."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models.features import FIT_ROWS, Columns, FeatureSpec
from models.id_rows import known_ids
from models.numeric import sample_rows
from models.semantic_ids import codes_of, fit_codebook, semantic_ids


def id_counts(spec: FeatureSpec, columns: Columns, table: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct ids of all columns that read `table`, and their occurrences; sequences count as far as they are read.

    Raises ValueError for a column that holds no ids.
    """
    parts = []
    for f in spec.features:
        if f.table != table or not f.is_indexed:
            continue
        values = columns[f.column]
        if f.level:
            values = semantic_ids(
                codes_of(values, spec.codebooks[f.column]), f.level, spec.codebooks[f.column].shape[1]
            )
        if values.dtype.kind not in "iu":
            raise ValueError(f"column {f.column} has dtype {values.dtype}; table {table} counts ids, integers")
        parts.append(np.unique(values[:, : f.length] if values.ndim == 2 else values, return_counts=True))
    ids, which = np.unique(np.concatenate([ids for ids, _ in parts]), return_inverse=True)
    counts = np.bincount(which, weights=np.concatenate([counts for _, counts in parts]), minlength=len(ids))
    return ids[ids >= 0].astype(np.int64), counts[ids >= 0].astype(np.int64)


def fit_ids(
    spec: FeatureSpec, columns: Columns, codebooks: Mapping[str, NDArray[np.float32]] | None = None
) -> FeatureSpec:
    """The spec with what its tables need to know of the ids in `columns`, which are all training rows.

    Content is quantised by `codebooks` where another model brought them, else by ones that are fitted here.
    """
    contents = sorted({f.column for f in spec.features if f.level})
    made = {
        name: codebooks[name] if codebooks and name in codebooks else fit_codebook(sample_rows(columns[name], FIT_ROWS))
        for name in contents
    }
    spec = replace(spec, codebooks=made) if made else spec
    found = {}
    for t in spec.tables:
        if t.counts_ids:
            ids, counts = id_counts(spec, columns, t.name)
            found[t.name] = known_ids(ids, counts, t.num_rows, t.hashing, t.min_count, t.num_shared)
    return replace(spec, ids=found) if found else spec
