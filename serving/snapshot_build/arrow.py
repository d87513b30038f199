"""Rows of DuckDB as the arrays of the snapshot."""

from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from serving.snapshot import UNKNOWN, Ragged, Texts


def arrow_rows(connection: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    """All rows of the query."""
    return connection.sql(query).to_arrow_table()


def column_of(connection: duckdb.DuckDBPyConnection, query: str) -> list[Any]:
    """The first column of the query."""
    return list(arrow_rows(connection, query).column(0).to_pylist())


def numbers(column: pa.ChunkedArray, dtype: Any) -> NDArray[Any]:
    """A column without nulls, [N]."""
    return np.ascontiguousarray(column.to_numpy().astype(dtype))


def codes(column: pa.ChunkedArray, vocabulary: tuple[str, ...]) -> NDArray[np.int16]:
    """Place of each word in the vocabulary, UNKNOWN for null, [N]."""
    code_of = {name: code for code, name in enumerate(vocabulary)}
    return np.array([code_of.get(name, UNKNOWN) for name in column.to_pylist()], dtype=np.int16)


def code_lists(column: pa.ChunkedArray) -> Ragged:
    """Lists of codes by row; they have no weights."""
    lists = column.combine_chunks()
    offsets = np.concatenate([[0], np.cumsum(lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False))])
    values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    return Ragged(offsets.astype(np.int64), values, np.empty(0, dtype=np.float32))


def texts(column: pa.ChunkedArray, ids: NDArray[np.int64]) -> Texts | None:
    """The outside ids, None where each is just the inside number. A missing one falls back to the number."""
    own = [str(i) for i in ids.tolist()]
    names = [number if name is None else name for name, number in zip(column.to_pylist(), own, strict=True)]
    if names == own:
        return None
    raw = [name.encode() for name in names]
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in raw])]).astype(np.int64)
    return Texts(offsets, np.frombuffer(b"".join(raw), dtype=np.uint8))


def ragged(rows: pa.Table, num_lists: int) -> Ragged:
    """Lists from rows (list, value, weight) in order of list."""
    owners = numbers(rows["list"], np.int64)
    offsets = np.searchsorted(owners, np.arange(num_lists + 1)).astype(np.int64)
    return Ragged(offsets, numbers(rows["value"], np.int64), numbers(rows["weight"], np.float32))
