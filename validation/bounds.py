"""Online input bounds, compiled from the suites into plain values that a bundle can carry.

Serving checks its feature values against them without Great Expectations: a value outside is counted and
read as null. Compiling imports no Great Expectations either.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from feature_repo.catalog import ALL_VIEWS, FIELDS
from validation.rules import Suite
from validation.suites.features import cross_suite, view_suite

# Limits that depend on the data's end are on timestamps, never on a feature, so any instant will do.
_ANY_END = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Bound:
    """Legal values of one feature; None where a side is open. Null is always legal: an unknown entity has no others."""

    min: float | None
    max: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compile_bounds(features: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
    """`{"view__feature": {"min", "max"}}` for every bounded scalar feature, or those of `features`.

    Names outside the catalogue (the request's own context) have no suite and so no bound.
    """
    bounds = suite_bounds(cross_suite())
    for view in ALL_VIEWS.values():
        bounds |= suite_bounds(view_suite(view, _ANY_END))
    chosen = bounds if features is None else {name: bounds[name] for name in features if name in bounds}
    return {name: bound.to_json() for name, bound in chosen.items()}


def suite_bounds(rows: Suite) -> dict[str, Bound]:
    """Bounds of one view's scalar features by full name, from its row suite."""
    bounds: dict[str, Bound] = {}
    for rule in rows.rules:
        full = f"{rows.name}__{rule.kwargs.get('column')}"
        # A list's rule is about its length, which the columns' fixed width settles online.
        if rule.expectation == "expect_column_values_to_be_between" and full in FIELDS and not FIELDS[full].length:
            bounds[full] = Bound(rule.kwargs.get("min_value"), rule.kwargs.get("max_value"))
    return bounds
