"""Rows of the log that become examples: who, what, when, request context, labels; no features yet.

t = the serve time of the ranking that showed the post, or the impression's own instant where none was
logged. Rows whose time was imputed are never examples: nothing dated may be joined to them.
"""

from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from core.held_out import hash64, is_held_out
from core.schema import HEADS
from training.labels import LABEL_WINDOW_SECONDS, POSITIVE_VALUES, label_columns_sql
from training.sampling import keep_sql, sampling_rate
from training.splits import SPLITS, TimeSplit

LABELS = tuple(f"label_{head}" for head in HEADS)
TAUGHT_BEST, TAUGHT_CANDIDATES = 300, 1_000
"""Of a training request's candidates: so many of the best, and about so many in all."""
CONTEXT_TEXTS = ("device", "country", "language", "surface")


@dataclass(frozen=True)
class RowQuery:
    """Which impressions are wanted, about `max_rows` of them.

    With `negatives_per_positive` None, whole requests are kept or not. With a number, every positively
    engaged impression is kept if it fits, and that many others per positive, by impression.
    """

    max_rows: int
    negatives_per_positive: float | None
    is_held_out_excluded: bool
    seed: int


def impression_rows(connection: duckdb.DuckDBPyConnection, split: TimeSplit, query: RowQuery) -> pa.Table:
    """One row per example in order of t: ids, served_at, weights, request context, `label_<head>` columns.

    `connection` has the log's views. weights = 1 / sampling rate. Held-out users keep their test rows only.
    """
    _create_eligible(connection, split, query.is_held_out_excluded)
    if query.negatives_per_positive is None:
        _sample_requests(connection, query)
    else:
        _sample_by_engagement(connection, query, query.negatives_per_positive)
    context = ", ".join(
        f"coalesce({'s' if name == 'surface' else 'r'}.{name}, '') AS request__{name}" for name in CONTEXT_TEXTS
    )
    rows = connection.sql(f"""
        SELECT s.user_id, s.post_id, s.creator_id, s.served_at, s.weights,
               coalesce(s.request_id, -row_number() OVER (ORDER BY s.served_at, s.event_id)) AS request_id,
               {context}, {", ".join(LABELS)}
        FROM sample s JOIN labels USING (event_id) LEFT JOIN requests r ON r.request_id = s.request_id
        ORDER BY s.served_at, s.request_id, s.position, s.event_id
    """).to_arrow_table()
    for name in ("eligible", "labels", "sample", "held_out"):
        connection.execute(f"DROP TABLE IF EXISTS {name}")
    return rows


def _sample_requests(connection: duckdb.DuckDBPyConnection, query: RowQuery) -> None:
    rate = sampling_rate(_count(connection, "eligible"), query.max_rows)
    keep = keep_sql("coalesce(request_id::VARCHAR, event_id)", rate, query.seed)
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE sample AS SELECT *, {1.0 / rate}::FLOAT AS weights FROM eligible WHERE {keep}"
    )
    connection.execute(f"CREATE OR REPLACE TEMP TABLE labels AS {label_columns_sql('sample')}")


def _sample_by_engagement(
    connection: duckdb.DuckDBPyConnection, query: RowQuery, negatives_per_positive: float
) -> None:
    connection.execute(f"CREATE OR REPLACE TEMP TABLE labels AS {label_columns_sql('eligible')}")
    is_engaged = "(" + " OR ".join(f"coalesce(label_{head}, 0) > 0.5" for head in POSITIVE_VALUES) + ")"
    engaged = _count(connection, f"labels WHERE {is_engaged}")
    others = _count(connection, "labels") - engaged
    engaged_rate = sampling_rate(engaged, max(1, round(query.max_rows / (1 + negatives_per_positive))))
    wanted = max(1, round(negatives_per_positive * engaged * engaged_rate))
    other_rate = sampling_rate(others, wanted)
    # Without any positive there is nothing to balance against, and the rows would be noise.
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE sample AS
        SELECT s.*, (CASE WHEN {is_engaged} THEN {1.0 / engaged_rate} ELSE {1.0 / other_rate} END)::FLOAT AS weights
        FROM eligible s JOIN labels USING (event_id)
        WHERE {engaged} > 0 AND CASE WHEN {is_engaged} THEN {keep_sql("event_id", engaged_rate, query.seed)}
              ELSE {keep_sql("event_id", other_rate, query.seed)} END
    """)


def _create_eligible(connection: duckdb.DuckDBPyConnection, split: TimeSplit, is_held_out_excluded: bool) -> None:
    users = connection.sql("SELECT DISTINCT user_id FROM impressions").to_arrow_table()["user_id"].to_numpy()
    held_out = users[is_held_out(users)] if is_held_out_excluded else users[:0]
    connection.register("held_out_users", pa.table({"user_id": pa.array(held_out, pa.int64())}))
    connection.execute("CREATE OR REPLACE TEMP TABLE held_out AS SELECT user_id FROM held_out_users")
    connection.unregister("held_out_users")
    served_at = "epoch(coalesce(served_at, event_at))"
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE eligible AS
        SELECT event_id, event_at, coalesce(served_at, event_at) AS served_at, request_id, user_id, post_id, creator_id,
               surface, position, observed_kinds
        FROM impressions
        WHERE NOT is_time_imputed
          AND {served_at} >= {split.train_from!r}
          AND {served_at} < {split.test_until!r}
          AND epoch(event_at) + {LABEL_WINDOW_SECONDS} <= {split.test_until!r}
          AND ({served_at} >= {split.test_from!r} OR user_id NOT IN (SELECT user_id FROM held_out))
    """)


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    # fetchone would leave the result open, and the next relation would find the connection in use.
    return int(connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])


def candidate_rows(connection: duckdb.DuckDBPyConnection, max_rows: int, seed: int) -> pa.Table:
    """One row per candidate of sampled requests in order of t: ids, request context, score and rank, labels null.

    The first stage learns from the second stage's ranking.
    """
    rate = sampling_rate(_count(connection, "candidates"), max_rows)
    context = ", ".join(f"coalesce(r.{name}, '') AS request__{name}" for name in CONTEXT_TEXTS)
    return connection.sql(f"""
        SELECT c.user_id, c.post_id, p.creator_id, c.event_at AS served_at, {1.0 / rate}::FLOAT AS weights,
               c.request_id, {context}, c.score AS candidate__score, c.rank AS candidate__rank,
               {", ".join(f"NULL::FLOAT AS {name}" for name in LABELS)}
        FROM candidates c
        JOIN (SELECT post_id, arg_max(creator_id, event_at) AS creator_id FROM posts GROUP BY post_id) p USING (post_id)
        LEFT JOIN requests r ON r.request_id = c.request_id
        WHERE {keep_sql("c.request_id::VARCHAR", rate, seed)}
        ORDER BY c.event_at, c.request_id, c.rank
    """).to_arrow_table()


def assign_candidate_split(rows: pa.Table, validation_share: float = 0.2) -> NDArray[np.int8]:
    """Index into SPLITS per row, [N]: held-out users test; of the others' requests the latest validate."""
    request_ids, is_test = rows["request_id"].to_numpy(), is_held_out(rows["user_id"].to_numpy())
    others = request_ids[~is_test]
    _, first = np.unique(others, return_index=True)
    in_order = others[np.sort(first)]
    validating = in_order[len(in_order) - round(len(in_order) * validation_share) :]
    part = np.where(np.isin(request_ids, validating), SPLITS.index("validation"), SPLITS.index("train"))
    return np.where(is_test, SPLITS.index("test"), part).astype(np.int8)


def taught_candidates(rows: pa.Table, part: NDArray[np.int8], seed: int) -> NDArray[np.bool_]:
    """True for rows that stay, [N]: of a training request with many candidates the best and a sample of the others.

    Far down the list one candidate says what the next one does; other parts keep all, so that they measure all.
    """
    request_ids, post_ids = rows["request_id"].to_numpy(), rows["post_id"].to_numpy()
    ranks = rows["candidate__rank"].to_numpy()
    _, request_of, counts = np.unique(request_ids, return_inverse=True, return_counts=True)
    rate = (TAUGHT_CANDIDATES - TAUGHT_BEST) / np.maximum(counts - TAUGHT_BEST, 1)
    chance = hash64(hash64(request_ids, seed).view(np.int64) ^ post_ids) / 2.0**64
    kept: NDArray[np.bool_] = (part != SPLITS.index("train")) | (ranks < TAUGHT_BEST) | (chance < rate[request_of])
    return kept
