"""Builds the snapshot from the log, off-peak. The only module of serving that may import DuckDB."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from core.files import content_hash
from core.schema import CONTENT_DIM, MEDIA_TYPES, NEGATIVE_HEADS
from core.settings import Settings
from core.workspace import DatasetManifest
from events.compact import journal_place
from events.read import connect, latest, register_log
from serving.snapshot import (
    UNKNOWN,
    Catalogue,
    Entities,
    Lists,
    Ragged,
    SampleUser,
    Snapshot,
    Texts,
    Users,
)

NUM_NEIGHBOURS = 50
LIST_LENGTH = 1_000
SEEN_DAYS = 14
POPULAR_DAYS = 7
TRENDING_HOURS = 48
TRENDING_HALF_LIFE_HOURS = 6.0
SEEDS_PER_USER = 50
SHRINKAGE = 5.0
"""Pairs of posts seen together fewer times than this count mostly as chance."""
PRIOR_IMPRESSIONS = 30.0
"""Impressions that the average post's value weighs against a post's own."""
NUM_SAMPLE_USERS = 24

Report = Callable[[str], None]


def build_snapshot(
    settings: Settings, value_weights: Mapping[str, float], report: Report = lambda step: None
) -> Snapshot:
    """The snapshot of everything known by the end of the data; `value_weights` say what an engagement is worth."""
    manifest = settings.workspace.manifest()
    # Read before the tables: what comes in between is replayed from the journal once more, which changes nothing.
    place = journal_place(settings.workspace.log)
    connection = connect(settings)
    try:
        register_log(connection, settings.workspace.log)
        as_of = _as_of(connection, manifest)
        report("reading engagements")
        _stage_tables(connection, as_of, value_weights)
        report("catalogue")
        catalogue, post_texts, creator_texts = _catalogue(connection)
        report("lists")
        lists = _lists(connection, catalogue)
        report("users")
        users = _users(connection, catalogue, as_of)
        entities = _entities(connection, catalogue)
        samples = _sample_users(connection)
        # Rows without a time of their own were rebuilt from elsewhere; their surface is not one to ask for.
        surfaces = tuple(
            _column(
                connection,
                """
            SELECT surface FROM impressions WHERE NOT coalesce(is_time_imputed, false)
            GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 50
        """,
            )
        )
    finally:
        connection.close()
    draft = Snapshot(
        "", as_of, manifest.data_version, catalogue, lists, users, samples, surfaces,
        _topic_names(manifest), post_texts, creator_texts, entities, place,
    )  # fmt: skip
    identity = [
        manifest.data_version,
        repr(as_of),
        repr(sorted(value_weights.items())),
        str(len(catalogue)),
        str(place),
    ]
    return replace(draft, snapshot_id=content_hash(identity))


def _as_of(connection: duckdb.DuckDBPyConnection, manifest: DatasetManifest) -> float:
    if manifest.anchor_at is not None:
        return manifest.anchor_at.timestamp()
    newest = _column(
        connection,
        "SELECT epoch(max(known_at)) FROM (SELECT known_at FROM impressions UNION ALL SELECT known_at FROM posts"
        " UNION ALL SELECT known_at FROM users UNION ALL SELECT known_at FROM creators)",
    )[0]
    return manifest.last_event_at.timestamp() if newest is None else float(newest)


def _stage_tables(connection: duckdb.DuckDBPyConnection, as_of: float, weights: Mapping[str, float]) -> None:
    """Makes the tables that the queries below share: what was known at `as_of`, and what it was worth."""
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


def _catalogue(connection: duckdb.DuckDBPyConnection) -> tuple[Catalogue, Texts | None, Texts | None]:
    rows = _arrow(
        connection,
        f"""
        WITH seen AS (
            SELECT post_row, count(*) AS n,
                   count(*) FILTER (age_seconds <= {POPULAR_DAYS * 86400} AND NOT is_time_imputed) AS n_recent
            FROM i GROUP BY 1),
        worth AS (
            SELECT post_row, sum(weight) AS value FROM e
            WHERE age_seconds <= {POPULAR_DAYS * 86400} AND NOT is_time_imputed GROUP BY 1),
        reported AS (SELECT post_row, count(*) AS n FROM e WHERE kind = 'report' GROUP BY 1),
        mean AS (
            SELECT coalesce((SELECT sum(value) FROM worth) / nullif((SELECT sum(n_recent) FROM seen), 0), 0.0) AS value)
        SELECT p.post_id, p.external_id, p.creator_id, creators_latest.external_id AS creator_external_id,
               p.topic_id, p.language, p.country, p.media_type, epoch(p.created_at) AS created_at,
               p.duration_seconds, coalesce(p.integrity_score, 1.0)::FLOAT AS integrity,
               coalesce(p.is_recommendable, true) AS is_recommendable, p.content_embedding,
               coalesce(seen.n, 0)::BIGINT AS num_impressions,
               ((coalesce(worth.value, 0) + mean.value * {PRIOR_IMPRESSIONS})
                / (coalesce(seen.n_recent, 0) + {PRIOR_IMPRESSIONS}))::FLOAT AS popularity,
               (coalesce(reported.n, 0) / (coalesce(seen.n, 0) + {PRIOR_IMPRESSIONS}))::FLOAT AS report_rate
        FROM p CROSS JOIN mean LEFT JOIN seen USING (post_row) LEFT JOIN worth USING (post_row)
             LEFT JOIN reported USING (post_row)
             LEFT JOIN creators_latest USING (creator_id)
        ORDER BY post_row
        """,
    )
    languages = _vocabulary(connection, "language")
    countries = _vocabulary(connection, "country")
    catalogue = Catalogue(
        post_ids=_numpy(rows["post_id"], np.int64),
        creator_ids=_numpy(rows["creator_id"], np.int64),
        topic_ids=_numpy(rows["topic_id"], np.int64),
        language_codes=_codes(rows["language"], languages),
        country_codes=_codes(rows["country"], countries),
        media_codes=_codes(rows["media_type"], MEDIA_TYPES),
        created_at=_numpy(rows["created_at"], np.float64),
        duration_seconds=_numpy(rows["duration_seconds"], np.float32),
        integrity=_numpy(rows["integrity"], np.float32),
        is_recommendable=_numpy(rows["is_recommendable"], np.bool_),
        num_impressions=_numpy(rows["num_impressions"], np.int64),
        popularity=_numpy(rows["popularity"], np.float32),
        report_rate=_numpy(rows["report_rate"], np.float32),
        content=_embeddings(rows["content_embedding"]),
        languages=languages,
        countries=countries,
        media_types=MEDIA_TYPES,
    )
    posts = _texts(rows["external_id"], catalogue.post_ids)
    return catalogue, posts, _texts(rows["creator_external_id"], catalogue.creator_ids)


def _lists(connection: duckdb.DuckDBPyConnection, catalogue: Catalogue) -> Lists:
    recent = f"age_seconds <= {TRENDING_HOURS * 3600} AND NOT is_time_imputed AND weight > 0"
    decayed = f"sum(weight * pow(0.5, greatest(age_seconds, 0) / {TRENDING_HALF_LIFE_HOURS * 3600}))"
    week = f"age_seconds <= {POPULAR_DAYS * 86400} AND NOT is_time_imputed"
    languages, countries = catalogue.languages, catalogue.countries
    return Lists(
        neighbours=_ragged(_arrow(connection, _neighbours_sql()), len(catalogue)),
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
    return _ragged(_arrow(connection, query), num_segments)


def _users(connection: duckdb.DuckDBPyConnection, catalogue: Catalogue, as_of: float) -> Users:
    rows = _arrow(connection, "SELECT user_id, language, country FROM u ORDER BY user_row")
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
        name: _ragged(_arrow(connection, f"{sql} GROUP BY 1, 2 ORDER BY list, weight, value"), count)
        for name, sql in by_user.items()
    }
    return Users(
        user_ids=_numpy(rows["user_id"], np.int64),
        language_codes=_codes(rows["language"], catalogue.languages),
        country_codes=_codes(rows["country"], catalogue.countries),
        **lists,
    )


def _entities(connection: duckdb.DuckDBPyConnection, catalogue: Catalogue) -> Entities:
    users = _arrow(connection, "SELECT user_id, external_id, profile_codes FROM u ORDER BY user_row")
    creators = _arrow(
        connection, "SELECT creator_id, external_id, language, country FROM creators_latest ORDER BY creator_id"
    )
    posts = _arrow(connection, "SELECT content_codes FROM p ORDER BY post_row")
    creator_ids = _numpy(creators["creator_id"], np.int64)
    return Entities(
        user_profile_codes=_code_lists(users["profile_codes"]),
        post_content_codes=_code_lists(posts["content_codes"]),
        creator_ids=creator_ids,
        creator_language_codes=_codes(creators["language"], catalogue.languages),
        creator_country_codes=_codes(creators["country"], catalogue.countries),
        external_user_ids=_texts(users["external_id"], _numpy(users["user_id"], np.int64)),
        external_creator_ids=_texts(creators["external_id"], creator_ids),
    )


def _sample_users(connection: duckdb.DuckDBPyConnection) -> tuple[SampleUser, ...]:
    """Active users, the most active of each language in turn, with the topics they engage with most."""
    rows = _arrow(
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


def _topic_names(manifest: DatasetManifest) -> dict[int, str]:
    """Names by topic id where the data set declares them as `topic_names`, a list or a mapping."""
    declared = manifest.config.get("topic_names")
    if isinstance(declared, list):
        return {topic: str(name) for topic, name in enumerate(declared)}
    if isinstance(declared, dict):
        return {int(topic): str(name) for topic, name in declared.items()}
    return {}


def _vocabulary(connection: duckdb.DuckDBPyConnection, column: str) -> tuple[str, ...]:
    return tuple(
        _column(
            connection,
            f"SELECT {column} FROM (SELECT {column} FROM p UNION SELECT {column} FROM u"
            f" UNION SELECT {column} FROM creators_latest)"
            f" WHERE {column} IS NOT NULL ORDER BY 1",
        )
    )


def _code_sql(column: str, vocabulary: tuple[str, ...]) -> str:
    if not vocabulary:
        return "NULL::BIGINT"
    # Names come from the data: quote them as SQL text.
    quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in vocabulary)
    return f"(list_position([{quoted}], {column}) - 1)::BIGINT"


def _arrow(connection: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    return connection.sql(query).to_arrow_table()


def _column(connection: duckdb.DuckDBPyConnection, query: str) -> list[Any]:
    return list(_arrow(connection, query).column(0).to_pylist())


def _numpy(column: pa.ChunkedArray, dtype: Any) -> NDArray[Any]:
    return np.ascontiguousarray(column.to_numpy().astype(dtype))


def _codes(column: pa.ChunkedArray, vocabulary: tuple[str, ...]) -> NDArray[np.int16]:
    code_of = {name: code for code, name in enumerate(vocabulary)}
    return np.array([code_of.get(name, UNKNOWN) for name in column.to_pylist()], dtype=np.int16)


def _embeddings(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """Content embeddings [P, CONTENT_DIM], zeros for null."""
    flat = column.combine_chunks()
    vectors = np.zeros((len(flat), CONTENT_DIM), dtype=np.float32)
    present = np.flatnonzero(flat.is_valid().to_numpy(zero_copy_only=False))
    if len(present):
        vectors[present] = flat.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, CONTENT_DIM)
    return vectors


def _code_lists(column: pa.ChunkedArray) -> Ragged:
    """Lists of codes by row; they have no weights."""
    lists = column.combine_chunks()
    offsets = np.concatenate([[0], np.cumsum(lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False))])
    values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    return Ragged(offsets.astype(np.int64), values, np.empty(0, dtype=np.float32))


def _texts(column: pa.ChunkedArray, ids: NDArray[np.int64]) -> Texts | None:
    """The outside ids, None where each is just the inside number. A missing one falls back to the number."""
    numbers = [str(i) for i in ids.tolist()]
    names = [number if name is None else name for name, number in zip(column.to_pylist(), numbers, strict=True)]
    if names == numbers:
        return None
    raw = [name.encode() for name in names]
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in raw])]).astype(np.int64)
    return Texts(offsets, np.frombuffer(b"".join(raw), dtype=np.uint8))


def _ragged(rows: pa.Table, num_lists: int) -> Ragged:
    """Lists from rows (list, value, weight) in order of list."""
    owners = _numpy(rows["list"], np.int64)
    offsets = np.searchsorted(owners, np.arange(num_lists + 1)).astype(np.int64)
    return Ragged(offsets, _numpy(rows["value"], np.int64), _numpy(rows["weight"], np.float32))
