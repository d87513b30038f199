"""Which requests become examples, and balancing weights."""

import duckdb
import numpy as np
import pytest

from training.sampling import balancing_weights, keep_sql, sampling_rate


def kept(rate: float, seed: int, n: int = 20_000) -> set[int]:
    connection = duckdb.connect()
    rows = connection.execute(f"SELECT i FROM range({n}) t(i) WHERE {keep_sql('i::VARCHAR', rate, seed)}").fetchall()
    return {row[0] for row in rows}


def test_the_rate_is_kept() -> None:
    assert abs(len(kept(0.3, 0)) / 20_000 - 0.3) < 0.015
    assert len(kept(1.0, 0)) == 20_000
    assert len(kept(0.0, 0)) == 0


def test_a_lower_rate_keeps_a_subset_and_another_seed_keeps_others() -> None:
    assert kept(0.1, 0) < kept(0.3, 0)
    overlap = len(kept(0.3, 0) & kept(0.3, 1)) / 20_000
    assert abs(overlap - 0.09) < 0.015


def test_rows_that_fit_are_all_kept() -> None:
    assert sampling_rate(100, 1_000) == 1.0
    assert sampling_rate(2_000, 500) == 0.25
    assert sampling_rate(0, 500) == 1.0


def test_senseless_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="max_rows"):
        sampling_rate(10, 0)
    with pytest.raises(ValueError, match="rate"):
        keep_sql("x", 1.5, 0)


def test_balancing_weights_by_hand() -> None:
    weights = balancing_weights(np.array([1, 0, 0, 0, np.nan], dtype=np.float32))
    # Four known rows, one positive: 4 / (2 * 1) and 4 / (2 * 3).
    assert weights.tolist() == pytest.approx([2.0, 2 / 3, 2 / 3, 2 / 3, 0.0])
    assert balancing_weights(np.zeros(3, dtype=np.float32)).tolist() == [1.0, 1.0, 1.0]
