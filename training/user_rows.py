"""The user side of a training set once per request: its features depend on user, serve time and request alone.

Legend: N examples, R requests.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from core.errors import FeatureStoreError
from feature_repo.catalog import ENTITY_VIEWS
from training.example_rows import CONTEXT_TEXTS

REQUEST_VIEW = "request"
SHARED_BY = ("request_id", "user_id", "served_at", *(f"{REQUEST_VIEW}__{name}" for name in CONTEXT_TEXTS))
"""Rows that follow each other and agree in these have one user side; a request with several serve times has several."""


def is_of_user(column: str) -> bool:
    """True for features of the user and of the request."""
    return column.partition("__")[0] in {*ENTITY_VIEWS["user"], REQUEST_VIEW}


def user_row_of(rows: pa.Table) -> NDArray[np.int32]:
    """Row of the user side for each example, [N], from 0, rising by at most 1."""
    is_new = np.zeros(len(rows), dtype=bool)
    for name in SHARED_BY:
        codes = rows[name].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
        is_new[1:] |= codes[1:] != codes[:-1]
    return np.cumsum(is_new, dtype=np.int32)


def once_per_request(
    columns: Mapping[str, NDArray[Any]], user_row: NDArray[np.int32], request_ids: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """The first value of each request, [R].

    Raises FeatureStoreError where a request has two values: the join would then not be a function of its key.
    """
    first = np.flatnonzero(np.diff(user_row, prepend=-1))
    place = user_row - user_row[0] if len(user_row) else user_row
    found = {}
    for name, values in columns.items():
        found[name] = values[first]
        is_same = _equal(values, found[name][place])
        if not is_same.all():
            row = int(np.flatnonzero(~is_same)[0])
            raise FeatureStoreError(
                f"feature {name} of request {request_ids[row]} is {values[row]!r} for one post and "
                f"{found[name][place[row]]!r} for another at the same serve time; expected one value of the user: "
                "build the features anew (`python -m feature_repo build --full`), then the set"
            )
    return found


def _equal(values: NDArray[Any], others: NDArray[Any]) -> NDArray[np.bool_]:
    """True per row where all entries are equal; NaN equals NaN."""
    same = values == others
    if values.dtype.kind == "f":
        same |= np.isnan(values) & np.isnan(others)
    return same if same.ndim == 1 else same.all(axis=1)
