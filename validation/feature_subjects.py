"""What the gate of the feature tables puts before its suites: SQL per view."""

from feature_repo.catalog import View
from validation.log_subjects import is_known_sql
from validation.tables import Table


def view_sql(view: View, table: Table, columns: tuple[str, ...], has_copies: bool) -> str:
    """SQL of the view's rows as the suite judges them: `columns`, then file_index and file_row_number.

    Needs the views of `events.read.register_log`, and `copies` where `has_copies`. Lists enter as their number
    of elements.
    """
    expressions = _computed(view, has_copies) | {f.name: f"len(r.{f.name})" for f in view.fields if f.length}
    judged = ", ".join(f"{expressions.get(column, f'r.{column}')} AS {column}" for column in columns)
    numbered = "LEFT JOIN copies c USING (file_index, file_row_number)" if has_copies else ""
    return f"""
        SELECT {judged}, r.file_index, r.file_row_number
        FROM (SELECT *, file_index, file_row_number FROM {table.source_sql}) r {numbered}
    """


def view_key(view: View) -> tuple[str, ...]:
    """What may not repeat in a feature table; a correction has the same event time and a later known time."""
    return (view.join_key, "event_at", "known_at")


def by_day_sql(table: Table, columns: tuple[str, ...]) -> str:
    """SQL of one row per day with what the suite reads: newest_at, filled_x (share of rows with a value), mean_x."""
    judged = "".join(f", {_profile(column)} AS {column}" for column in columns)
    return f"""
        SELECT event_at::DATE::VARCHAR AS day, count(*) AS num_rows{judged}
        FROM {table.source_sql} GROUP BY day ORDER BY day
    """


def _profile(column: str) -> str:
    if column == "newest_at":
        return "max(event_at)"
    statistic, feature = column.split("_", 1)
    return f"avg({feature})" if statistic == "mean" else f"count({feature}) / count(*)"


def _computed(view: View, has_copies: bool) -> dict[str, str]:
    key = view.join_key
    return {
        "occurrence": "coalesce(c.occurrence, 1)" if has_copies else "1",
        "entity_is_known": is_known_sql(key, f"{view.entity}s"),
    }
