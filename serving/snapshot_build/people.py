"""What the snapshot knows of users and creators."""

import duckdb
import numpy as np

from serving.snapshot import Catalogue, Entities, SampleUser, Users
from serving.snapshot_build.arrow import arrow_rows, code_lists, codes, numbers, ragged, texts

SEEN_DAYS = 14
NUM_SAMPLE_USERS = 24


def read_users(connection: duckdb.DuckDBPyConnection, catalogue: Catalogue, as_of: float) -> Users:
    """What each user saw, hid, blocked and follows."""
    rows = arrow_rows(connection, "SELECT user_id, language, country FROM u ORDER BY user_row")
    count = rows.num_rows
    by_user = {
        "seen": f"""SELECT user_row AS list, post_row AS value, min(age_seconds)::FLOAT AS weight
                    FROM i JOIN u USING (user_id) WHERE age_seconds <= {SEEN_DAYS * 86400} AND NOT is_time_imputed""",
        "hidden": """SELECT user_row AS list, post_row AS value, min(age_seconds)::FLOAT AS weight
                     FROM e JOIN u USING (user_id) WHERE kind IN ('hide', 'see_less', 'report')""",
        "blocked": """SELECT user_row AS list, creator_id AS value, min(age_seconds)::FLOAT AS weight
                      FROM e JOIN u USING (user_id) JOIN p USING (post_row) WHERE kind = 'block'""",
        "followed": f"""SELECT user_row AS list, creator_id AS value,
                               min({as_of!r} - epoch(f.event_at))::FLOAT AS weight
                        FROM follows_latest f JOIN u USING (user_id) WHERE is_active""",
    }
    lists = {
        name: ragged(arrow_rows(connection, f"{sql} GROUP BY 1, 2 ORDER BY list, weight, value"), count)
        for name, sql in by_user.items()
    }
    return Users(
        user_ids=numbers(rows["user_id"], np.int64),
        language_codes=codes(rows["language"], catalogue.languages),
        country_codes=codes(rows["country"], catalogue.countries),
        **lists,
    )


def read_entities(connection: duckdb.DuckDBPyConnection, catalogue: Catalogue) -> Entities:
    """Profiles, codes and outside ids, for readers of entities."""
    users = arrow_rows(connection, "SELECT user_id, external_id, profile_codes FROM u ORDER BY user_row")
    creators = arrow_rows(
        connection, "SELECT creator_id, external_id, language, country FROM creators_latest ORDER BY creator_id"
    )
    posts = arrow_rows(connection, "SELECT content_codes FROM p ORDER BY post_row")
    creator_ids = numbers(creators["creator_id"], np.int64)
    return Entities(
        user_profile_codes=code_lists(users["profile_codes"]),
        post_content_codes=code_lists(posts["content_codes"]),
        creator_ids=creator_ids,
        creator_language_codes=codes(creators["language"], catalogue.languages),
        creator_country_codes=codes(creators["country"], catalogue.countries),
        external_user_ids=texts(users["external_id"], numbers(users["user_id"], np.int64)),
        external_creator_ids=texts(creators["external_id"], creator_ids),
    )


def sample_users(connection: duckdb.DuckDBPyConnection) -> tuple[SampleUser, ...]:
    """Active users, the most active of each language in turn, with the topics they engage with most."""
    rows = arrow_rows(
        connection,
        f"""
        WITH active AS (
            SELECT user_id, count(*) AS n FROM e WHERE weight > 0 GROUP BY 1),
        ranked AS (
            SELECT u.user_id, u.external_id, u.country, u.language, n,
                   row_number() OVER (PARTITION BY u.language ORDER BY n DESC, user_id) AS turn
            FROM active JOIN u USING (user_id)),
        chosen AS (SELECT * FROM ranked ORDER BY turn, n DESC, user_id LIMIT {NUM_SAMPLE_USERS}),
        topics AS (
            SELECT user_id, topic_id, sum(weight) AS w FROM e JOIN p USING (post_row)
            WHERE user_id IN (SELECT user_id FROM chosen) AND weight > 0 AND topic_id >= 0 GROUP BY user_id, topic_id
            QUALIFY row_number() OVER (PARTITION BY user_id ORDER BY w DESC, topic_id) <= 3)
        SELECT c.user_id, c.external_id, c.country, c.language, c.n,
               (SELECT list(topic_id ORDER BY w DESC, topic_id) FROM topics t WHERE t.user_id = c.user_id) AS topic_ids
        FROM chosen c ORDER BY turn, n DESC, user_id
        """,
    ).to_pylist()
    return tuple(
        SampleUser(r["user_id"], r["external_id"], r["country"], r["language"], r["n"], tuple(r["topic_ids"] or ()))
        for r in rows
    )
