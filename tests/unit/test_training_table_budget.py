import numpy as np
import pytest

from models.features import Feature
from tests.planted_examples import examples
from training.sampling import repeats
from training.table_budget import TableCounts, plan_tables, row_bytes, with_plan
from training.upsampling import upsampled

NARROW = TableCounts(np.array([100, 10, 10, 1]), 4)  # 28 bytes a row
WIDE = TableCounts(np.array([90, 50, 2]), 16)  # 76 bytes a row


def test_a_row_is_weights_accumulator_and_owner():
    assert row_bytes(4) == 16 + 4 + 8


def test_ids_read_oftenest_per_byte_get_rows_first():
    # Rows come in buckets of 8 beside null and the shared one: 10 rows of 28 or of 76 bytes, filled by up to 6 ids.
    plan = plan_tables({"narrow": NARROW, "wide": WIDE}, 280)
    assert (plan["narrow"].num_own_ids, plan["narrow"].min_count, plan["narrow"].bytes) == (4, 1, 280)
    assert plan["wide"].num_own_ids == 0
    assert plan["narrow"].covered_share == 1.0


def test_both_within_the_budget_with_their_cut_offs():
    plan = plan_tables({"narrow": NARROW, "wide": WIDE}, 280 + 760)
    assert plan["wide"].num_own_ids == 3
    assert sum(p.bytes for p in plan.values()) <= 280 + 760


def test_ids_of_equal_count_are_in_or_out_together():
    many = TableCounts(np.array([9] * 6 + [3] * 10), 4)
    plan = plan_tables({"many": many}, 300)["many"]
    assert (plan.num_own_ids, plan.min_count, plan.num_rows) == (6, 9, 10)
    assert plan.covered_share == pytest.approx(54 / 84)


def test_nothing_fits_into_nothing():
    plan = plan_tables({"wide": WIDE}, 0)["wide"]
    assert (plan.num_own_ids, plan.num_rows, plan.bytes, plan.covered_share) == (0, 0, 0, 0.0)


def test_features_take_the_plan_of_their_table():
    found = with_plan(
        (Feature("a", "post", "categorical", table="narrow", num_rows=500, dim=4), Feature("b", "post", "numeric")),
        plan_tables({"narrow": NARROW}, 10_000),
    )
    assert (found[0].hashing, found[0].num_rows, found[0].min_count) == ("zero_collision", 10, 1)
    assert found[1] == Feature("b", "post", "numeric")


def test_repeats_reach_what_is_asked_and_no_more():
    assert repeats(np.array([1, 3, 5, 19, 20, 400]), at_least=20, most=6).tolist() == [6, 6, 4, 2, 1, 1]


def test_upsampling_keeps_the_sum_of_weights_and_the_order():
    before = examples(600, 0, True)
    after = upsampled(before, "post__post_id", at_least=6, most=3)
    assert after.num_rows > before.num_rows
    assert (np.diff(after.served_at) >= 0).all()
    total = np.bincount(after.served_at.astype(int), weights=after.weights)
    np.testing.assert_allclose(total, 1.0, rtol=1e-6)
    counts = np.bincount(before.post_ids)[before.post_ids]
    times = np.bincount(after.served_at.astype(int))
    assert times[counts == 2].tolist() == [3] * (counts == 2).sum()
    assert set(times[counts >= 6].tolist()) == {1}
