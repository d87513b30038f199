"""The gate of the log: rows have the table's schema or are refused with the column's name."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from core.errors import InputError
from core.schema import Column, TableSchema


def conform(rows: pa.Table, schema: TableSchema) -> pa.Table:
    """`rows` in the table's column order and types.

    Another encoding of the same text (dictionary, large or view strings) is taken; a type that could change a
    value is not. Raises InputError naming table, column, expected and found.
    """
    unknown = [name for name in rows.column_names if name not in schema.arrow.names]
    if unknown:
        raise InputError(f"table {schema.name}: unexpected columns {unknown}; expected {schema.arrow.names}")
    columns = [_column(rows, column, schema.name) for column in schema.columns]
    conformed = pa.table(columns, schema=schema.arrow)
    if conformed.num_rows and pc.any(pc.less(conformed["known_at"], conformed["event_at"])).as_py():
        raise InputError(f"table {schema.name}: known_at before event_at; a fact cannot be known before it is true")
    return conformed


def _column(rows: pa.Table, column: Column, table: str) -> pa.ChunkedArray:
    """The column as declared. Raises InputError when absent, of another type, or null where that is illegal."""
    if column.name not in rows.column_names:
        raise InputError(f"table {table}, column {column.name}: missing; expected {column.type}")
    found = rows[column.name]
    if found.type != column.type:
        if not _is_same_text(found.type, column.type):
            raise InputError(f"table {table}, column {column.name}: expected {column.type}, found {found.type}")
        found = found.cast(column.type)
    if not column.is_nullable and found.null_count:
        raise InputError(
            f"table {table}, column {column.name}: {found.null_count} of {len(found)} values are null; "
            "expected a value in every row"
        )
    return found


def _is_same_text(found: pa.DataType, expected: pa.DataType) -> bool:
    """Whether both hold text, or lists of text, and differ in encoding only."""
    if pt.is_dictionary(found):
        found = found.value_type
    if pt.is_list(expected) and (pt.is_list(found) or pt.is_large_list(found)):
        return found.value_type == expected.value_type or _is_same_text(found.value_type, expected.value_type)
    is_text: bool = pt.is_string(found) or pt.is_large_string(found) or pt.is_string_view(found)
    return is_text and bool(pt.is_string(expected))
