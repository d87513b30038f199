"""Rows of drawn candidates: their split by time, and what they carry."""

import duckdb
import numpy as np
import pyarrow as pa

from core.schema import INSTANT, TABLES
from events.read import register_log
from training.example_rows import assign_candidate_split, candidate_rows
from training.splits import SPLITS, is_held_out


def test_the_latest_requests_validate() -> None:
    rows = pa.table({"request_id": np.repeat([9, 3, 7, 1, 5], 4)})
    part = assign_candidate_split(rows)
    assert (part[:16] == SPLITS.index("train")).all()
    assert (part[16:] == SPLITS.index("validation")).all()


def test_a_request_is_never_divided() -> None:
    request_ids = np.repeat(np.random.default_rng(0).permutation(37), 3)
    part = assign_candidate_split(pa.table({"request_id": request_ids})).reshape(37, 3)
    assert (part == part[:, :1]).all()


def test_candidates_carry_score_rank_and_no_labels_and_leave_held_out_users_out(tmp_path) -> None:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    register_log(connection, tmp_path)
    n = 40
    at = pa.array(np.arange(n) * 1_000_000, pa.int64()).cast(INSTANT)
    candidates = pa.table(
        {
            "request_id": np.arange(n),
            "user_id": np.arange(n),
            "post_id": np.full(n, 5),
            "sources": [["fresh"]] * n,
            "score": pa.array(np.linspace(0, 1, n), pa.float32()),
            "rank": pa.array(np.zeros(n), pa.int32()),
            "num_candidates": pa.array(np.ones(n), pa.int32()),
            "event_at": at,
            "known_at": at,
        }
    )
    posts = pa.table({"post_id": [5, 5], "creator_id": [1, 2], "event_at": at[:2], "known_at": at[:2]})
    connection.execute("DROP VIEW candidates; DROP VIEW posts")
    connection.register("candidates", candidates)
    connection.register("posts", posts)
    rows = candidate_rows(connection, 1_000, 0)
    kept = np.flatnonzero(~is_held_out(np.arange(n)))
    assert 0 < len(kept) < n
    assert rows["user_id"].to_pylist() == kept.tolist()
    assert set(rows["creator_id"].to_pylist()) == {2}
    assert rows["candidate__score"].to_numpy().tolist() == candidates["score"].to_numpy()[kept].tolist()
    assert rows["label_click"].null_count == len(kept)
    assert set(TABLES["candidates"].key) <= set(candidates.column_names)
