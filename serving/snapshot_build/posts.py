"""The catalogue of the snapshot: every known post with its counts."""

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from core.schema import CONTENT_DIM, MEDIA_TYPES
from serving.snapshot import Catalogue, Texts
from serving.snapshot_build.arrow import arrow_rows, codes, column_of, numbers, texts

POPULAR_DAYS = 7
PRIOR_IMPRESSIONS = 30.0
"""Impressions that the average post's value weighs against a post's own."""


def read_catalogue(connection: duckdb.DuckDBPyConnection) -> tuple[Catalogue, Texts | None, Texts | None]:
    """The catalogue, and the outside ids of its posts and of their creators by row."""
    rows = arrow_rows(
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
        post_ids=numbers(rows["post_id"], np.int64),
        creator_ids=numbers(rows["creator_id"], np.int64),
        topic_ids=numbers(rows["topic_id"], np.int64),
        language_codes=codes(rows["language"], languages),
        country_codes=codes(rows["country"], countries),
        media_codes=codes(rows["media_type"], MEDIA_TYPES),
        created_at=numbers(rows["created_at"], np.float64),
        duration_seconds=numbers(rows["duration_seconds"], np.float32),
        integrity=numbers(rows["integrity"], np.float32),
        is_recommendable=numbers(rows["is_recommendable"], np.bool_),
        num_impressions=numbers(rows["num_impressions"], np.int64),
        popularity=numbers(rows["popularity"], np.float32),
        report_rate=numbers(rows["report_rate"], np.float32),
        content=_embeddings(rows["content_embedding"]),
        languages=languages,
        countries=countries,
        media_types=MEDIA_TYPES,
    )
    posts = texts(rows["external_id"], catalogue.post_ids)
    return catalogue, posts, texts(rows["creator_external_id"], catalogue.creator_ids)


def _vocabulary(connection: duckdb.DuckDBPyConnection, column: str) -> tuple[str, ...]:
    return tuple(
        column_of(
            connection,
            f"SELECT {column} FROM (SELECT {column} FROM p UNION SELECT {column} FROM u"
            f" UNION SELECT {column} FROM creators_latest)"
            f" WHERE {column} IS NOT NULL ORDER BY 1",
        )
    )


def _embeddings(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """Content embeddings [P, CONTENT_DIM], zeros for null."""
    flat = column.combine_chunks()
    vectors = np.zeros((len(flat), CONTENT_DIM), dtype=np.float32)
    present = np.flatnonzero(flat.is_valid().to_numpy(zero_copy_only=False))
    if len(present):
        vectors[present] = flat.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, CONTENT_DIM)
    return vectors
