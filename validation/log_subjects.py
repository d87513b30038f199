"""What the gate of the log puts before its suites: SQL per table, with references resolved."""

from collections.abc import Mapping

from core.schema import HEADS, TABLES
from validation.suspects import literal
from validation.tables import Table


def is_known_sql(column: str, table: str) -> str:
    """SQL that is true where the reference is in `table`, false where it is not, null where there is none."""
    # Nothing is in an empty table, not even null: without the CASE a missing reference would be an unknown one.
    known = f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL"
    return f"CASE WHEN r.{column} IS NOT NULL THEN r.{column} IN ({known}) END"


_USER = {"user_is_known": is_known_sql("user_id", "users")}
_POST = {"post_is_known": is_known_sql("post_id", "posts")}
_CREATOR = {"creator_is_known": is_known_sql("creator_id", "creators")}
_REQUEST = {"request_is_known": is_known_sql("request_id", "requests")}
_CREATOR_OF_POST = {"creator_is_of_post": "r.creator_id = p.creator_id"}
_POST_CREATORS = "SELECT post_id, any_value(creator_id) AS creator_id FROM posts GROUP BY post_id"
_JOIN_POST = f"LEFT JOIN ({_POST_CREATORS}) p ON p.post_id = r.post_id"

_COMPUTED: dict[str, Mapping[str, str]] = {
    "users": {},
    "creators": {},
    "posts": _CREATOR | {"content_norm": "list_sum(list_transform(r.content_embedding::FLOAT[], lambda x: x * x))"},
    "follows": _USER | _CREATOR,
    "requests": _USER,
    "impressions": _USER | _POST | _CREATOR_OF_POST | _REQUEST,
    "engagements": _USER
    | _POST
    | _CREATOR_OF_POST
    | {
        "impression_is_known": "CASE WHEN r.impression_id IS NOT NULL THEN i.event_id IS NOT NULL END",
        "is_of_impression": "i.user_id = r.user_id AND i.post_id = r.post_id",
        "impression_at": "i.event_at",
    },
    "candidates": _USER | _POST | {"rank_is_within": "r.rank < r.num_candidates"},
}
_JOINS = {
    "impressions": _JOIN_POST,
    "engagements": _JOIN_POST + " LEFT JOIN impressions i ON i.event_id = r.impression_id",
}
_JUDGED_AS_TEXT = ("kind", "media_type")


def log_sql(table: Table, columns: tuple[str, ...], has_copies: bool) -> str:
    """SQL of the table's rows as the suite judges them: `columns`, then file_index and file_row_number.

    Needs the views of `events.read.register_log`, and `copies` where `has_copies`. Text enters as its length,
    lists as their number of elements.
    """
    occurrence = {"occurrence": "coalesce(c.occurrence, 1)" if has_copies else "1"}
    judged = ", ".join(f"{occurrence.get(name) or _expression(table.name, name)} AS {name}" for name in columns)
    numbered = "LEFT JOIN copies c USING (file_index, file_row_number)" if has_copies else ""
    return f"""
        SELECT {judged}, r.file_index, r.file_row_number
        FROM (SELECT *, file_index, file_row_number FROM {table.source_sql}) r {numbered} {_JOINS.get(table.name, "")}
    """


def _expression(table: str, column: str) -> str:
    if column in _COMPUTED[table]:
        return _COMPUTED[table][column]
    declared = next(c for c in TABLES[table].columns if c.name == column)
    kind = str(declared.type)
    if kind == "string" and column not in _JUDGED_AS_TEXT:
        return f"length(r.{column})"
    return f"len(r.{column}::VARCHAR[])" if "list" in kind else f"r.{column}"


def events_by_day_sql() -> str:
    """SQL of one row per day from the first to the last dated impression, days without any included.

    `impressions.volume` is the day's share of the median day, null on the first and last day, which may be
    partial. Rates are engagements per impression of rows that could record the kind.
    """
    seen = ", ".join(
        f"count(*) FILTER (observed_kinds IS NULL OR list_contains(observed_kinds, {literal(k)})) AS seen_{k}"
        for k in HEADS
    )
    done = ", ".join(f"count(*) FILTER (kind = {literal(k)}) AS num_{k}" for k in HEADS)
    rates = ", ".join(
        f'CASE WHEN i.seen_{k} > 0 THEN coalesce(e.num_{k}, 0) / i.seen_{k} END AS "engagements.rate_{k}"'
        for k in HEADS
    )
    return f"""
        WITH i AS (
            SELECT event_at::DATE AS day, count(*) AS num_rows, {seen}
            FROM impressions WHERE NOT is_time_imputed GROUP BY day
        ), e AS (
            SELECT event_at::DATE AS day, count(*) AS num_rows, {done}
            FROM engagements WHERE NOT is_time_imputed GROUP BY day
        ), ends AS (SELECT min(day) AS first, max(day) AS last, median(num_rows) AS typical FROM i),
        days AS (
            SELECT unnest(generate_series(first, last, INTERVAL 1 DAY))::DATE AS day FROM ends WHERE first IS NOT NULL
        )
        SELECT days.day::VARCHAR AS day,
               coalesce(i.num_rows, 0) AS "impressions.num_rows",
               CASE WHEN days.day > ends.first AND days.day < ends.last
                    THEN coalesce(i.num_rows, 0) / ends.typical END AS "impressions.volume",
               CASE WHEN i.num_rows > 0 THEN coalesce(e.num_rows, 0) / i.num_rows END AS "engagements.rate_any",
               {rates}
        FROM days CROSS JOIN ends LEFT JOIN i USING (day) LEFT JOIN e USING (day) ORDER BY day
    """
