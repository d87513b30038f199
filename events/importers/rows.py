"""Columns completed to rows of a log table."""

from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from core.schema import INSTANT, TABLES


def complete(table: str, columns: dict[str, pa.Array], num_rows: int) -> pa.Table:
    """The columns as rows of `table`; the nullable ones not given are null."""
    schema = TABLES[table].arrow
    arrays = [columns[f.name] if f.name in columns else pa.nulls(num_rows, f.type) for f in schema]
    return pa.table(arrays, schema=schema)


def int_lists(codes: NDArray[np.int32]) -> pa.Array:
    """The rows of a matrix [N, L] as a list column."""
    num_rows, length = codes.shape
    return pa.ListArray.from_arrays(
        np.arange(num_rows + 1, dtype=np.int32) * length, pa.array(codes.ravel(), pa.int32())
    )


def not_before(instants: pa.Array, start: datetime) -> pa.Array:
    """The instants, those before `start` moved to it, [N]."""
    floor = pa.scalar(start, INSTANT)
    return pc.if_else(pc.less(instants, floor), floor, instants)
