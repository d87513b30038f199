"""A batch in the forms that Feast hands over, as serialized entities and packed rows."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from numpy.typing import NDArray

from core.errors import InputError
from feature_repo.stores.packed.cells import cells_from_arrow, cells_from_values
from feature_repo.stores.packed.keys import entities_of_arrow, entities_of_protos
from feature_repo.stores.packed.layout import UNKNOWN, Layout
from feature_repo.stores.packed.pack import pack_rows

Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
"""Feast's row: entity, values, event time, created time (ours: known time)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO = timedelta(microseconds=1)


def pack_protos(layout: Layout, data: list[Row]) -> tuple[list[bytes], list[bytes]]:
    """Entities and rows, [N]; a feature that a row does not name is null in it."""
    cells = [cells_from_values(f, [values.get(f.name) for _, values, _, _ in data]) for f in layout.fields]
    event_us = np.array([micros_of(event_at) for _, _, event_at, _ in data], dtype=np.int64)
    known_us = np.array([UNKNOWN if at is None else micros_of(at) for _, _, _, at in data], dtype=np.int64)
    return entities_of_protos([key for key, _, _, _ in data]), pack_rows(layout, cells, event_us, known_us)


def pack_batch(layout: Layout, view: Any, batch: pa.RecordBatch | pa.Table) -> tuple[list[bytes], list[bytes]]:
    """Entities and rows, [N], of an Arrow batch whose columns have the view's own names.

    Raises InputError for a missing column, a null join key or a null event time.
    """
    source = view.batch_source
    event_column, known_column = source.timestamp_field, source.created_timestamp_column or None
    event_column = source.field_mapping.get(event_column, event_column)
    known_column = source.field_mapping.get(known_column, known_column)
    keys = {f.name: f.dtype.to_value_type() for f in view.entity_columns}
    missing = {*layout.by_name, *keys, event_column} - set(batch.schema.names)
    if missing:
        raise InputError(
            f"the batch for view {view.name} lacks {', '.join(sorted(missing))}; it has "
            f"{', '.join(batch.schema.names)}; correct the source or its field mapping"
        )
    event_us = _micros(batch.column(event_column))
    if (event_us == UNKNOWN).any():
        raise InputError(f"{event_column} of view {view.name} is null in a row; every row needs its event time")
    has_known = known_column in batch.schema.names
    known_us = _micros(batch.column(known_column)) if has_known else np.full(len(event_us), UNKNOWN)
    cells = [cells_from_arrow(f, batch.column(f.name)) for f in layout.fields]
    entities = entities_of_arrow({name: (of, batch.column(name)) for name, of in keys.items()})
    return entities, pack_rows(layout, cells, event_us, known_us)


def micros_of(at: datetime) -> int:
    """Microseconds since 1970; a naive instant counts as UTC, as everywhere in Feast."""
    aware = at if at.tzinfo else at.replace(tzinfo=UTC)
    return (aware - _EPOCH) // _MICRO


def datetime_of(micros: int) -> datetime:
    """The aware UTC instant."""
    return _EPOCH + timedelta(microseconds=micros)


def _micros(column: pa.Array) -> NDArray[np.int64]:
    """Instants of an Arrow column in microseconds; UNKNOWN where null."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_string(column.type) or not pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us"))
    zone = column.type.tz
    whole = column.cast(pa.timestamp("us", tz=zone), safe=False).cast(pa.int64())
    return np.asarray(whole.fill_null(UNKNOWN).to_numpy(zero_copy_only=False), dtype=np.int64)
