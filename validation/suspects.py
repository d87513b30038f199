"""Row rules said in SQL, to find the rows worth judging in tables too large to judge whole.

A suspect is a row that may break a rule. Great Expectations has the last word on every suspect, so the SQL
may suspect too much but must never miss a row; tests hold it to that.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from validation.rules import Rule


def suspect_sql(rule: Rule) -> str:
    """A boolean SQL expression over the rule's columns, true where a row breaks the rule and never null."""
    return f"coalesce({_BREAKS[rule.expectation](rule.kwargs)}, false)"


def literal(value: Any) -> str:
    """The value as a SQL literal."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return f"TIMESTAMPTZ '{value.isoformat()}'"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value)


def quoted(name: str) -> str:
    """The column name as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'


def _null(kwargs: Mapping[str, Any]) -> str:
    # Great Expectations counts NaN as null, as pandas does.
    column = quoted(kwargs["column"])
    return f"({column} IS NULL OR {column}::VARCHAR = 'nan')"


def _outside(kwargs: Mapping[str, Any]) -> str:
    column = quoted(kwargs["column"])
    parts = [f"{column} < {literal(kwargs['min_value'])}"] if "min_value" in kwargs else []
    if "max_value" in kwargs:
        above = f"{column} > {literal(kwargs['max_value'])}"
        # DuckDB orders NaN above every number; it is a null here.
        parts.append(
            above if isinstance(kwargs["max_value"], datetime) else f"({above} AND NOT isnan({column}::DOUBLE))"
        )
    return f"({' OR '.join(parts)})"


def _not_in_set(kwargs: Mapping[str, Any]) -> str:
    return f"{quoted(kwargs['column'])} NOT IN ({', '.join(literal(value) for value in kwargs['value_set'])})"


def _before(kwargs: Mapping[str, Any]) -> str:
    return f"{quoted(kwargs['column_A'])} < {quoted(kwargs['column_B'])}"


_BREAKS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "expect_column_values_to_not_be_null": _null,
    "expect_column_values_to_be_between": _outside,
    "expect_column_values_to_be_in_set": _not_in_set,
    "expect_column_pair_values_a_to_be_greater_than_b": _before,
}
