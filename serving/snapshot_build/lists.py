"""The generated lists of the snapshot: neighbours, trending, popular."""

import duckdb

from core.schema import NEGATIVE_HEADS
from serving.snapshot import Catalogue, Lists, Ragged
from serving.snapshot_build.arrow import arrow_rows, ragged
from serving.snapshot_build.posts import POPULAR_DAYS

NUM_NEIGHBOURS = 50
LIST_LENGTH = 1_000
TRENDING_HOURS = 48
TRENDING_HALF_LIFE_HOURS = 6.0
SEEDS_PER_USER = 50
SHRINKAGE = 5.0
"""Pairs of posts seen together fewer times than this count mostly as chance."""


def read_lists(connection: duckdb.DuckDBPyConnection, catalogue: Catalogue) -> Lists:
    """Neighbours, trending and popular posts, by segment where they have any."""
    recent = f"age_seconds <= {TRENDING_HOURS * 3600} AND NOT is_time_imputed AND weight > 0"
    decayed = f"sum(weight * pow(0.5, greatest(age_seconds, 0) / {TRENDING_HALF_LIFE_HOURS * 3600}))"
    week = f"age_seconds <= {POPULAR_DAYS * 86400} AND NOT is_time_imputed"
    languages, countries = catalogue.languages, catalogue.countries
    return Lists(
        neighbours=ragged(arrow_rows(connection, _neighbours_sql()), len(catalogue)),
        trending=_top(connection, "0::BIGINT", decayed, "e", recent, 1),
        trending_by_language=_top(
            connection, _code_sql("p.language", languages), decayed, "e JOIN p USING (post_row)", recent, len(languages)
        ),
        popular=_top(connection, "0::BIGINT", "sum(weight)", "e", week, 1),
        popular_by_country=_top(
            connection,
            _code_sql("u.country", countries),
            "sum(weight)",
            "e JOIN u USING (user_id)",
            week,
            len(countries),
        ),
        popular_by_language=_top(
            connection,
            _code_sql("u.language", languages),
            "sum(weight)",
            "e JOIN u USING (user_id)",
            week,
            len(languages),
        ),
    )


def _neighbours_sql() -> str:
    """Posts engaged with by the same users: damped cosine of the co-occurrence counts, best first."""
    negative = ", ".join(f"'{kind}'" for kind in (*NEGATIVE_HEADS, "hide", "block"))
    return f"""
        WITH engaged AS (
            SELECT user_id, post_row, max(weight) AS weight, min(age_seconds) AS age_seconds FROM e
            WHERE weight > 0 AND kind NOT IN ({negative}) GROUP BY user_id, post_row
            QUALIFY row_number() OVER (PARTITION BY user_id ORDER BY min(age_seconds), post_row) <= {SEEDS_PER_USER}),
        degree AS (SELECT post_row, count(*) AS n FROM engaged GROUP BY 1),
        pairs AS (
            SELECT a.post_row AS list, b.post_row AS value, count(*) AS together
            FROM engaged a JOIN engaged b ON a.user_id = b.user_id AND a.post_row <> b.post_row GROUP BY ALL),
        scored AS (
            SELECT list, value, (together / sqrt(x.n * y.n)) * together / (together + {SHRINKAGE}) AS weight
            FROM pairs JOIN degree x ON x.post_row = list JOIN degree y ON y.post_row = value)
        SELECT list, value, weight::FLOAT AS weight FROM scored
        QUALIFY row_number() OVER (PARTITION BY list ORDER BY weight DESC, value) <= {NUM_NEIGHBOURS}
        ORDER BY list, weight DESC, value
    """


def _top(
    connection: duckdb.DuckDBPyConnection, segment: str, score: str, source: str, condition: str, num_segments: int
) -> Ragged:
    """The best posts of each segment by `score`."""
    query = f"""
        WITH scored AS (
            SELECT {segment} AS list, post_row AS value, {score}::FLOAT AS weight FROM {source}
            WHERE {condition} GROUP BY 1, 2)
        SELECT list, value, weight FROM scored WHERE list IS NOT NULL AND weight > 0
        QUALIFY row_number() OVER (PARTITION BY list ORDER BY weight DESC, value) <= {LIST_LENGTH}
        ORDER BY list, weight DESC, value
    """
    return ragged(arrow_rows(connection, query), num_segments)


def _code_sql(column: str, vocabulary: tuple[str, ...]) -> str:
    if not vocabulary:
        return "NULL::BIGINT"
    # Names come from the data: quote them as SQL text.
    quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in vocabulary)
    return f"(list_position([{quoted}], {column}) - 1)::BIGINT"
