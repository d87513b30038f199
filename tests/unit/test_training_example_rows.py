"""Rows of drawn candidates: their split by time, and what they carry."""

import duckdb
import numpy as np
import pyarrow as pa

from core.schema import INSTANT, TABLES
from events.read import register_log
from training.example_rows import (
    TAUGHT_BEST,
    TAUGHT_CANDIDATES,
    assign_candidate_split,
    candidate_rows,
    taught_candidates,
)
from training.splits import SPLITS, is_held_out


def test_the_latest_requests_validate() -> None:
    seen = np.flatnonzero(~is_held_out(np.arange(100)))[:5]
    rows = pa.table({"request_id": np.repeat([9, 3, 7, 1, 5], 4), "user_id": np.repeat(seen, 4)})
    part = assign_candidate_split(rows)
    assert (part[:16] == SPLITS.index("train")).all()
    assert (part[16:] == SPLITS.index("validation")).all()


def test_requests_of_held_out_users_test() -> None:
    users = np.arange(60)
    part = assign_candidate_split(pa.table({"request_id": users, "user_id": users}))
    assert ((part == SPLITS.index("test")) == is_held_out(users)).all()
    assert (part == SPLITS.index("validation")).sum() == round(0.2 * (~is_held_out(users)).sum())


def test_a_long_training_request_keeps_its_best_and_a_sample_of_the_others() -> None:
    sizes = [5_000, 5_000, 900]
    ranks = np.concatenate([np.arange(size) for size in sizes])
    ids = np.repeat([1, 2, 3], sizes)
    rows = pa.table({"request_id": ids, "post_id": ranks, "candidate__rank": ranks})
    part = np.where(ids == 2, SPLITS.index("test"), SPLITS.index("train")).astype(np.int8)
    kept = taught_candidates(rows, part, seed=0)
    assert kept[ids != 1].all()
    first = kept[ids == 1]
    assert first[:TAUGHT_BEST].all()
    assert abs(first.sum() - TAUGHT_CANDIDATES) < 4 * (0.15 * 0.85 * 4_700) ** 0.5
    assert (kept == taught_candidates(rows, part, seed=0)).all()
    assert (kept != taught_candidates(rows, part, seed=1)).any()


def test_a_request_is_never_divided() -> None:
    request_ids = np.repeat(np.random.default_rng(0).permutation(37), 3)
    rows = pa.table({"request_id": request_ids, "user_id": request_ids + 100})
    part = assign_candidate_split(rows).reshape(37, 3)
    assert (part == part[:, :1]).all()


def test_candidates_carry_score_rank_and_no_labels(tmp_path) -> None:
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
    assert rows["user_id"].to_pylist() == list(range(n))
    assert set(rows["creator_id"].to_pylist()) == {2}
    assert rows["candidate__score"].to_numpy().tolist() == candidates["score"].to_numpy().tolist()
    assert rows["label_click"].null_count == n
    assert set(TABLES["candidates"].key) <= set(candidates.column_names)
