"""On-demand feature views over large results: a slice of rows at a time, in the types that the views declare."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.types import from_feast_to_pyarrow_type

ON_DEMAND_ROWS = 20_000
"""Rows per call of an on-demand view; pandas holds one object per list, so all rows at once would not fit."""


class SlicedOnDemandView:
    """An on-demand view that is computed a slice of rows at a time; otherwise the view itself."""

    def __init__(self, view: OnDemandFeatureView) -> None:
        self._view = view

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)

    def transform_arrow(self, table: pa.Table, full_feature_names: bool = False) -> pa.Table:
        slices = [
            self._view.transform_arrow(table.slice(start, ON_DEMAND_ROWS), full_feature_names)
            for start in range(0, max(table.num_rows, 1), ON_DEMAND_ROWS)
        ]
        # A slice whose values are all null has no type of its own.
        return pa.concat_tables(slices, promote_options="permissive")


def in_declared_types(table: pa.Table, views: Sequence[SlicedOnDemandView], full_feature_names: bool) -> pa.Table:
    """`table` with on-demand features in their declared types: what pandas infers may change from part to part."""
    for view in views:
        for field in view.features:
            name = f"{view.projection.name_to_use()}__{field.name}" if full_feature_names else field.name
            place = table.schema.get_field_index(name)
            declared = from_feast_to_pyarrow_type(field.dtype)
            if place >= 0 and table.schema.field(place).type != declared:
                table = table.set_column(place, name, table.column(place).cast(declared))
    return table
