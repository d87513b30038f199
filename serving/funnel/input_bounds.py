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
        for name in self._suspects(columns):
            values = columns[name]
            null = -1 if values.dtype.kind == "i" else np.nan
            low, high = self._ranges[name]
            is_outside = ((values < low) | (values > high)) & (values != null)
            if is_outside.any():
                checked[name] = np.where(is_outside, values.dtype.type(null), values)
                self._count(name, int(is_outside.sum()))
        return checked

    def _suspects(self, columns: Columns) -> list[str]:
        """Columns to look at one by one: those of lists, and those in which a number is outside or a null of -1."""
        names = [name for name in columns if name in self._ranges]
        lists = [name for name in names if columns[name].ndim > 1]
        numbers = [name for name in names if columns[name].ndim == 1]
        if not numbers:
            return lists
        # One comparison for all of them: a request for one user has fifty columns of one number.
        values = np.stack([columns[name] for name in numbers])
        low, high = np.array([self._ranges[name] for name in numbers]).T[:, :, None]
        places = np.flatnonzero(((values < low) | (values > high)).any(axis=1))
        return [numbers[place] for place in places.tolist()] + lists
