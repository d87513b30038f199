"""The tables that all queries of the snapshot share: what was known at its instant, and what it was worth."""

from collections.abc import Mapping

import duckdb

from events.read import latest


def stage_tables(connection: duckdb.DuckDBPyConnection, as_of: float, weights: Mapping[str, float]) -> None:
    """Makes p (posts), u (users), e (engagements) and i (impressions), each with the rows of posts and users."""
    for table in ("posts", "creators", "users", "follows"):
        known = f"SELECT * FROM {table} WHERE epoch(known_at) <= {as_of!r}"
        connection.execute(f"CREATE TEMP TABLE known_{table} AS {known}")
        connection.execute(f"CREATE OR REPLACE VIEW {table} AS SELECT * FROM known_{table}")
        latest(connection, table)
    connection.execute(
        "CREATE TEMP TABLE p AS"
        " SELECT *, (row_number() OVER (ORDER BY post_id) - 1)::BIGINT AS post_row FROM posts_latest"
    )
    connection.execute(
        "CREATE TEMP TABLE u AS"
        " SELECT *, (row_number() OVER (ORDER BY user_id) - 1)::BIGINT AS user_row FROM users_latest"
    )
    values = ", ".join(f"('{kind}', {weight!r}::DOUBLE)" for kind, weight in weights.items())
    connection.execute(
        f"CREATE TEMP TABLE e AS SELECT user_id, post_row, kind, ({as_of!r} - epoch(event_at)) AS age_seconds,"
        " coalesce(is_time_imputed, false) AS is_time_imputed, coalesce(w.weight, 0.0) AS weight"
        f" FROM engagements JOIN (SELECT post_id, post_row FROM p) USING (post_id)"
        f" LEFT JOIN (VALUES {values}) w(kind, weight) USING (kind)"
        f" WHERE epoch(engagements.known_at) <= {as_of!r}"
    )
    connection.execute(
        f"CREATE TEMP TABLE i AS SELECT user_id, post_row, ({as_of!r} - epoch(event_at)) AS age_seconds,"
        " coalesce(is_time_imputed, false) AS is_time_imputed"
        f" FROM impressions JOIN (SELECT post_id, post_row FROM p) USING (post_id)"
        f" WHERE epoch(impressions.known_at) <= {as_of!r}"
    )
