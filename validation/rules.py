"""What a suite says, as plain values: no Great Expectations here, so bounds and training read it in no time.

A rule is one expectation under the name and arguments that Great Expectations gives it. `engine.py` turns
suites into its objects and runs them; `suspects.py` says row rules in SQL; `bounds.py` reads the ranges.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["row", "table"]

MAX_FAILING = 0.05
"""Share of a table's rows that may be quarantined; above it the source is broken and the stage stops."""


@dataclass(frozen=True)
class Rule:
    """One expectation. A row that breaks a row rule is quarantined for `reason`; a table rule stops the stage."""

    expectation: str
    kwargs: Mapping[str, Any]
    reason: str
    level: Level = "row"

    @property
    def column(self) -> str:
        """The column or columns that the rule is about, as a person writes them."""
        if "column_A" in self.kwargs:
            return f"{self.kwargs['column_A']}, {self.kwargs['column_B']}"
        return str(self.kwargs.get("column", "(table)"))

    @property
    def expected(self) -> str:
        """The arguments that say what is legal, for a message."""
        silent = ("column", "column_A", "column_B", "ignore_row_if", "or_equal")
        return ", ".join(f"{name} {_text(value)}" for name, value in self.kwargs.items() if name not in silent)


@dataclass(frozen=True)
class Suite:
    """Rules about one subject: a table, a view, its days. `max_failing`: share of rows that may break row rules."""

    name: str
    subject: str
    rules: tuple[Rule, ...]
    max_failing: float = MAX_FAILING

    def of_level(self, level: Level) -> tuple[Rule, ...]:
        return tuple(rule for rule in self.rules if rule.level == level)

    def columns(self) -> tuple[str, ...]:
        """Columns that the row rules read, in order of first use."""
        names = [
            rule.kwargs[key] for rule in self.rules for key in ("column", "column_A", "column_B") if key in rule.kwargs
        ]
        return tuple(dict.fromkeys(names))


def never_null(column: str) -> Rule:
    return Rule("expect_column_values_to_not_be_null", {"column": column}, f"{column} is null")


def within(
    column: str, low: Any = None, high: Any = None, reason: str | None = None, level: Level = "row", mostly: float = 1.0
) -> Rule:
    """Every non-null value lies from `low` to `high`, both included. `mostly` is for table rules only."""
    limits: dict[str, Any] = {"column": column}
    limits |= {name: value for name, value in (("min_value", low), ("max_value", high)) if value is not None}
    if mostly < 1.0:
        if level == "row":
            raise ValueError("mostly is for table rules; rows are tolerated by Suite.max_failing")
        limits["mostly"] = mostly
    return Rule("expect_column_values_to_be_between", limits, reason or f"{column} is out of range", level)


def one_of(column: str, values: Sequence[str], reason: str | None = None, level: Level = "row") -> Rule:
    """Every non-null value is in `values`."""
    return Rule(
        "expect_column_values_to_be_in_set",
        {"column": column, "value_set": list(values)},
        reason or f"{column} is unknown",
        level,
    )


def holds(flag: str, reason: str) -> Rule:
    """The computed boolean column `flag` is true wherever it could be computed."""
    return Rule("expect_column_values_to_be_in_set", {"column": flag, "value_set": [True]}, reason)


def not_before(later: str, earlier: str, reason: str) -> Rule:
    """Column `later` is at least column `earlier` wherever both have a value."""
    pair = {"column_A": later, "column_B": earlier, "or_equal": True, "ignore_row_if": "either_value_is_missing"}
    return Rule("expect_column_pair_values_a_to_be_greater_than_b", pair, reason)


def first_of_key(key: Iterable[str]) -> Rule:
    """The row is the first with its key; `occurrence` counts from 1 and is computed beside the table's columns."""
    return within("occurrence", 1, 1, f"another row has the same {', '.join(key)}")


def num_rows_at_least(least: int) -> Rule:
    return Rule("expect_table_row_count_to_be_between", {"min_value": least}, "too few rows", "table")


def filled(column: str, share: float) -> Rule:
    """At least `share` of the rows have a value."""
    kwargs = {"column": column, "min_value": share}
    reason = f"too many rows have no {column}"
    return Rule("expect_column_proportion_of_non_null_values_to_be_between", kwargs, reason, "table")


def newest_since(column: str, since: Any) -> Rule:
    """The largest value is `since` or later."""
    kwargs = {"column": column, "min_value": since}
    return Rule("expect_column_max_to_be_between", kwargs, f"the newest {column} is too old", "table")


def mean_within(column: str, low: float, high: float) -> Rule:
    kwargs = {"column": column, "min_value": low, "max_value": high}
    return Rule("expect_column_mean_to_be_between", kwargs, f"the mean of {column} is not plausible", "table")


def _text(value: Any) -> str:
    text = value.isoformat() if hasattr(value, "isoformat") else str(value)
    return text if len(text) <= 160 else text[:157] + "..."
