"""Keys of rows whose log numbers none: which repeat of the same thing a row is."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def occurrences(*keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each row, how many earlier rows have the same keys, [N]; 0 for the first."""
    num_rows = len(keys[0])
    if num_rows == 0:
        return np.zeros(0, np.int64)
    order = np.lexsort(keys[::-1])  # stable: rows of one key stay in order
    is_new = np.ones(num_rows, bool)
    is_new[1:] = np.any([key[order][1:] != key[order][:-1] for key in keys], axis=0)
    starts = np.flatnonzero(is_new)
    counts = np.empty(num_rows, np.int64)
    counts[order] = np.arange(num_rows) - np.repeat(starts, np.diff([*starts, num_rows]))
    return counts


def codes_of(texts: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """Small numbers that are equal exactly where the texts are equal, [N]; null has its own."""
    whole = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    codes: NDArray[np.int64] = whole.dictionary_encode(null_encoding="encode").indices.to_numpy().astype(np.int64)
    return codes


def joined(*parts: str | pa.Array | pa.ChunkedArray | NDArray[np.int64]) -> pa.Array:
    """Texts made of the parts with colons between, [N]."""
    cells = [
        p if isinstance(p, str) else pa.array(p).cast(pa.string()) if isinstance(p, np.ndarray) else p for p in parts
    ]
    cells = [c if isinstance(c, str) or pa.types.is_string(c.type) else c.cast(pa.string()) for c in cells]
    text = pc.binary_join_element_wise(*cells, ":")
    return text.combine_chunks() if isinstance(text, pa.ChunkedArray) else text


def positions_in(wanted: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index of each wanted id in `known` (unique, any order), -1 where absent, [N]."""
    if len(known) == 0:
        return np.full(len(wanted), -1, np.int64)
    order = np.argsort(known, kind="stable")
    places = np.minimum(np.searchsorted(known, wanted, sorter=order), len(known) - 1)
    found = order[places]
    return np.where(known[found] == wanted, found, -1)


def kinds_observed(is_observed: dict[str, NDArray[np.bool_]], num_rows: int) -> pa.Array:
    """Per row the engagement kinds that its log records, as the log's list column, [N]."""
    masks = np.zeros(num_rows, np.int64)
    for bit, observed in enumerate(is_observed.values()):
        masks |= observed.astype(np.int64) << bit
    values, codes = np.unique(masks, return_inverse=True)
    lists = [[kind for bit, kind in enumerate(is_observed) if value >> bit & 1] for value in values.tolist()]
    return pa.array(lists, pa.list_(pa.string())).take(pa.array(codes))
