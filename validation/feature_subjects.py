"""What the gate of the feature tables puts before its suites: SQL per view."""

from datetime import datetime

from feature_repo.catalog import POSITIVE_KINDS, View
from validation.log_subjects import is_known_sql
from validation.suspects import literal
from validation.tables import Table

LEAST_ROWS = 20
"""Rows of a day from which its shares say something."""


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


def by_day_sql(table: Table, columns: tuple[str, ...], since: datetime) -> str:
    """SQL of one row per day: newest_at, filled_x (share of rows with a value), mean_x, volume, as `columns` ask.

    `volume` is the day's share of the median day, null before `since` and on the first and last day, which may be
    partial; days without rows between them are there. Days and medians of few rows judge no share.
    """
    judged = "".join(f", {_profile(column)} AS {column}" for column in columns if column != "volume")
    return f"""
        WITH found AS (
            SELECT event_at::DATE AS day, count(*) AS num_rows{judged} FROM {table.source_sql} GROUP BY event_at::DATE
        ), ends AS (
            SELECT min(day) AS first, max(day) AS last, median(num_rows) AS typical
            FROM found WHERE day >= {literal(since)}::DATE
        ), days AS (
            SELECT unnest(generate_series(first, last, INTERVAL 1 DAY))::DATE AS day FROM ends WHERE first IS NOT NULL
            UNION SELECT day FROM found WHERE day IS NOT NULL
        )
        SELECT days.day::VARCHAR AS day, found.* EXCLUDE (day, num_rows), coalesce(num_rows, 0) AS num_rows,
               CASE WHEN days.day > first AND days.day < last AND typical >= {LEAST_ROWS}
                    THEN coalesce(num_rows, 0) / typical END AS volume
        FROM days CROSS JOIN ends LEFT JOIN found USING (day) ORDER BY day
    """


def newest_source_sql(view: View, end_at: datetime) -> str:
    """SQL of the instant of the newest event known by `end_at` that must have left a row in the view, or null."""
    parts = [
        f"SELECT max(event_at) AS newest_at FROM {source} AND known_at <= {literal(end_at)}"
        for source in _sources(view)
    ]
    return f"SELECT max(newest_at) FROM ({' UNION ALL '.join(parts)})"


def _sources(view: View) -> tuple[str, ...]:
    # An unfollow of what was not followed leaves no row.
    follows = "follows WHERE is_active"
    if view.name.endswith("_activity"):
        return ("impressions WHERE true",)
    if view.name in ("user_history", "user_affinity"):
        return (f"engagements WHERE kind IN ({', '.join(literal(kind) for kind in POSITIVE_KINDS)})",)
    return {
        "user_profile": ("users WHERE true", follows),
        "post_profile": ("posts WHERE true",),
        "creator_profile": ("creators WHERE true", "posts WHERE true", follows),
    }[view.name]


def _profile(column: str) -> str:
    if column == "newest_at":
        return "max(event_at)"
    statistic, feature = column.split("_", 1)
    filled = f"CASE WHEN count(*) >= {LEAST_ROWS} THEN count({feature}) / count(*) END"
    return f"avg({feature})" if statistic == "mean" else filled


def _computed(view: View, has_copies: bool) -> dict[str, str]:
    key = view.join_key
    return {
        "occurrence": "coalesce(c.occurrence, 1)" if has_copies else "1",
        "entity_is_known": is_known_sql(key, f"{view.entity}s"),
    }
