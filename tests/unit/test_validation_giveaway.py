import numpy as np
import pytest

from core.schema import HEADS
from validation.giveaway import AUC_LIMIT, LabelledRows, binned_auc, strengths

CLICK = HEADS.index("click")
NUM_ROWS = 8_000


def rows_with(name, make, seed=0) -> LabelledRows:
    """Rows of a coin label; `make(rng, label)` makes the column."""
    rng = np.random.default_rng(seed)
    labels = np.full((NUM_ROWS, len(HEADS)), np.nan, dtype=np.float32)
    labels[:, CLICK] = rng.random(NUM_ROWS) < 0.1
    posts = rng.integers(0, 500, NUM_ROWS)
    return LabelledRows({name: make(rng, labels[:, CLICK], posts)}, labels, posts, posts % 50)


def strongest(rows):
    return strengths(rows, seed=0)[0]


def flagged(rng, label, posts):
    return (label + rng.normal(0, 0.2, NUM_ROWS)).astype(np.float32)


def falling(rng, label, posts):
    return -flagged(rng, label, posts)


def null_unless_positive(rng, label, posts):
    return np.where(label > 0.5, rng.random(NUM_ROWS), np.nan).astype(np.float32)


def one_magic_value(rng, label, posts):
    return np.where(label > 0.5, 12_345.0, rng.normal(10_000, 5_000, NUM_ROWS)).astype(np.float32)


def telling_text(rng, label, posts):
    return np.where(label > 0.5, "detail_page", "list").astype(object)


def own_post_in_history(rng, label, posts):
    history = rng.integers(1_000, 2_000, (NUM_ROWS, 5))
    history[:, 3] = np.where(label > 0.5, posts, history[:, 3])
    return history


def longer_list(rng, label, posts):
    return np.where(np.arange(5) < (label[:, None] * 2 + 2), 7, -1).astype(np.int64)


def one_dimension(rng, label, posts):
    return np.stack([rng.normal(size=NUM_ROWS), flagged(rng, label, posts)], axis=1).astype(np.float32)


@pytest.mark.parametrize(
    "make",
    [flagged, falling, null_unless_positive, one_magic_value, telling_text, longer_list, one_dimension],
)
def test_a_planted_trace_of_the_label_is_found_in_any_shape(make):
    found = strongest(rows_with("user_history__x", make))
    assert found.is_suspicious
    assert found.head == "click"
    assert found.auc > 0.97


def test_a_history_that_holds_the_rows_own_post_is_found():
    found = strongest(rows_with("user_history__history_post_ids", own_post_in_history))
    assert found.is_suspicious
    assert found.feature == "user_history__history_post_ids.holds_own"
    assert "the value 1 has" in found.examples[0]


def test_with_nothing_to_find_no_feature_stands_out():
    shapes = {
        "v__number": lambda rng, label, posts: rng.normal(size=NUM_ROWS).astype(np.float32),
        "v__id": lambda rng, label, posts: rng.integers(0, 6_000, NUM_ROWS),
        "v__few": lambda rng, label, posts: rng.integers(0, 3, NUM_ROWS),
        "v__null": lambda rng, label, posts: np.full(NUM_ROWS, np.nan, dtype=np.float32),
    }
    for name, make in shapes.items():
        found = strongest(rows_with(name, make))
        assert abs(found.auc - 0.5) < 4 * found.error, name


def test_an_honest_feature_of_some_strength_passes():
    def honest(rng, label, posts):
        return (label + rng.normal(0, 1.0, NUM_ROWS)).astype(np.float32)

    found = strongest(rows_with("v__honest", honest))
    assert 0.7 < found.auc < AUC_LIMIT
    assert not found.is_suspicious


def test_a_head_with_few_positives_is_not_judged():
    rows = rows_with("v__x", flagged)
    rows.labels[:, CLICK] = 0.0
    rows.labels[:20, CLICK] = 1.0
    assert strengths(rows, seed=0) == []


def test_area_and_error_by_hand():
    # Two bins: 3 of 4 positives and 1 of 4 negatives in the upper one.
    # Pairs won: 3 * 3 = 9; ties: 3 * 1 + 1 * 3 = 6, half each; 12 of 16.
    area, error = binned_auc(np.array([0.1, 0.9]), np.array([1.0, 3.0]), np.array([3.0, 1.0]))
    assert area == 0.75
    # Q1 = .75 / 1.25 = .6, Q2 = 2 * .5625 / 1.75; (.1875 + 3 * (.0375 + Q2 - .5625)) / 16
    assert error == pytest.approx(np.sqrt((0.1875 + 3 * (0.6 - 0.5625) + 3 * (1.125 / 1.75 - 0.5625)) / 16))
    assert binned_auc(np.array([0.1]), np.array([0.0]), np.array([5.0]))[0] == 0.5
