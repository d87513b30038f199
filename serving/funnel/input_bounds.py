"""Online inputs held against the bounds that training's gates enforced; what lies outside reads as null.

The bounds travel in the bundles, so that the request path needs no Great Expectations.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from feature_repo.columns import Columns

Count = Callable[[str, int], None]
"""Told (feature, values outside)."""


class InputBounds:
    """Legal values per feature, as the bundles' manifests carry them."""

    def __init__(self, bounds: Mapping[str, Mapping[str, Any]], count: Count) -> None:
        self._ranges = {
            name: (
                -np.inf if bound["min"] is None else float(bound["min"]),
                np.inf if bound["max"] is None else float(bound["max"]),
            )
            for name, bound in bounds.items()
        }
        self._count = count

    def applied(self, columns: Columns) -> Columns:
        """`columns`, values outside their bounds replaced by null and counted; arrays without any are shared."""
        checked = dict(columns)
        for name in self._ranges.keys() & columns.keys():
            values = columns[name]
            null = -1 if values.dtype.kind == "i" else np.nan
            low, high = self._ranges[name]
            is_outside = (values < low) | (values > high)
            if is_outside.any() and (is_outside := is_outside & (values != null)).any():
                checked[name] = np.where(is_outside, values.dtype.type(null), values)
                self._count(name, int(is_outside.sum()))
        return checked
