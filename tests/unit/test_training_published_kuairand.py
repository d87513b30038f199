import numpy as np
import pytest

from core.errors import InputError
from tests.small_kuairand import log_line, write_folder
from training.published.kuairand_features import HISTORY_LENGTH, kuairand_columns, latest
from training.published.kuairand_log import HEADS, read_kuairand
from training.published.kuairand_parts import days_of, kuairand_parts, without_older
from training.published.kuairand_spec import TREES_ONLY, kuairand_features, tree_columns

LONG_VIEW, PROFILE = HEADS.index("long_view"), HEADS.index("profile_enter")
HISTORY = [(0, 3, 0, 1), (0, 1, 1, 0), (1, 0, 0, 1), (2, 0, 0, 0), (2, 1, 2, 1)]
LOG = [
    log_line(1, 2, 1, 9, long_view=1, is_click=1),
    log_line(0, 0, 0, 8, is_click=1),
    log_line(0, 2, 3, 8, long_view=1),
    log_line(0, 3, 4, 8, is_profile_enter=1, tab=4),
    log_line(0, 3, 5, 8),
]


@pytest.fixture
def data(tmp_path):
    return read_kuairand(write_folder(tmp_path, LOG, HISTORY))


def test_history_comes_first_in_its_order_then_the_log_in_order_of_time(data):
    assert data.users.tolist() == [0, 0, 1, 2, 2, 0, 1, 0, 0, 0]
    assert data.videos.tolist() == [1, 0, 0, 0, 2, 0, 2, 2, 3, 3]
    assert data.day.tolist() == [-1] * 5 + [0, 1, 2, 3, 4]
    assert data.dates.tolist() == [20220425, 20220426, 20220428, 20220429, 20220430]
    assert data.labels[:5, LONG_VIEW].tolist() == [0, 1, 1, 0, 1]
    assert np.isnan(data.labels[:5, PROFILE]).all()
    assert data.labels[5:, PROFILE].tolist() == [0, 0, 0, 1, 0]
    assert data.shown_hour.tolist() == [-1] * 5 + [8, 9, 8, 8, 8]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (
            log_line(0, 0, 1, 8).replace(",1\n", "") + ",7",
            r"log_standard_a\.csv:3: line has not the header's 19 values",
        ),
        ("," + log_line(0, 0, 1, 8).partition(",")[2], r"log_standard_a\.csv:3: user_id: null"),
        (log_line(0, 0, 1, 8).replace("0,0,2", "0,x,2", 1), r"log_standard_a\.csv:3: video_id: not a whole number"),
        (log_line(0, 0, 1, 8, long_view=7), r"log_standard_a\.csv:3: long_view: not 0, 1"),
        (log_line(9, 0, 1, 8), "user 9 and 0 more stand in no row of user_features"),
    ],
)
def test_a_bad_line_is_refused_with_its_number(tmp_path, bad, said):
    with pytest.raises(InputError, match=said):
        read_kuairand(write_folder(tmp_path, [LOG[0], bad, *LOG[1:]], HISTORY))


def test_a_folder_without_its_log_is_refused(tmp_path):
    write_folder(tmp_path, LOG, HISTORY)
    (tmp_path / "log_standard_a.csv").unlink()
    with pytest.raises(InputError, match=r"holds no log_standard_\*\.csv"):
        read_kuairand(tmp_path)


def test_the_parts_are_days_and_the_test_days_come_last(data):
    parts = kuairand_parts(data, is_tuning=False)
    assert set(days_of(parts.test)) == {3, 4}
    assert days_of(parts.valid).tolist() == [2]
    assert sorted(days_of(parts.train)) == [-1] * 5 + [0, 1]
    assert sorted(days_of(parts.whole)) == [-1] * 5 + [0, 1, 2]


def test_tuning_judges_on_the_last_two_days_before_the_test_days(tmp_path):
    log = [log_line(0, 0, day, 8) for day in range(6)]
    parts = kuairand_parts(read_kuairand(write_folder(tmp_path, log, HISTORY)), is_tuning=True)
    assert days_of(parts.test).tolist() == [2, 3]
    assert days_of(parts.valid).tolist() == [1]


def test_a_log_without_enough_days_is_refused(data):
    with pytest.raises(InputError, match="at least two before 20220429"):
        kuairand_parts(data, is_tuning=True)


def test_rates_know_the_days_before_and_nothing_from_the_test_days(data):
    columns = kuairand_columns(data, first_test_day=3)
    # User 0's views: history 0, 1; day 0 none; day 2 long. Rows that teach know what came before their block: the
    # history nothing, dated rows the history; test rows know it all: 0, 0 | 2, 2 | 4, 4.
    mine = data.users == 0
    assert columns["user__count_rows"][mine].tolist() == [0, 0, 2, 2, 4, 4]
    assert columns["cross__video_count"][mine].tolist() == [0, 0, 1, 0, 0, 0]
    # Long views before: 0, 0, 1, 1, 2, 2 of those; the prior is the rate of all rows before the test days: 5 of 8.
    expected = [(s + 5 * 5 / 8) / (n + 5) for s, n in ((0, 0), (0, 0), (1, 2), (1, 2), (2, 4), (2, 4))]
    np.testing.assert_allclose(columns["user__rate_long_view"][mine], expected, rtol=1e-6)


def test_no_label_of_a_test_day_reaches_a_column(data, tmp_path):
    before = kuairand_columns(data, first_test_day=3)
    labels = data.labels.copy()
    labels[data.day >= 3] = 1 - labels[data.day >= 3]
    data.labels[:] = labels
    after = kuairand_columns(data, first_test_day=3)
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name], err_msg=name)


def test_a_history_row_s_own_label_reaches_none_of_its_columns(tmp_path):
    """Only the priors, the mean of 4,000 rows, may move; a rate that counted the row would move by a hundredth."""
    rng = np.random.default_rng(0)
    history = [(user, place, int(rng.integers(4)), int(rng.integers(2))) for user in range(40) for place in range(100)]
    data = read_kuairand(write_folder(tmp_path, LOG, history, num_users=40))
    before = kuairand_columns(data, first_test_day=3)
    data.labels[7, LONG_VIEW] = 1 - data.labels[7, LONG_VIEW]
    after = kuairand_columns(data, first_test_day=3)
    # From the latest back, twelve at a time: rows 88 to 99 of user 0, ..., rows 4 to 15, rows 0 to 3.
    for name, values in before.items():
        np.testing.assert_allclose(values[4:16], after[name][4:16], atol=5e-4, err_msg=name)
    rate, moved = before["user__rate_long_view"], np.abs(before["user__rate_long_view"] - after["user__rate_long_view"])
    assert (moved[[*range(4), *range(16, 100)]] > 0.005).all(), "the rest of the history does know it"
    np.testing.assert_array_equal(rate[4:16], rate[4])
    assert before["user__count_rows"][:100].tolist() == [96.0] * 4 + [88.0] * 96


def test_a_taste_is_told_by_videos_that_the_same_users_see(tmp_path):
    """Two kinds of videos, each user shown both and watching one: a new video of that kind is nearer the taste."""
    rng = np.random.default_rng(0)
    history = [
        (user, place, video, int(video % 2 == user % 2)) if place < 30 else (user, place, video, 0)
        for user in range(60)
        for kind in (0, 1)
        for place, video in zip(range(kind, 60, 2), 2 * rng.permutation(40)[:30] + kind, strict=True)
        if kind == user % 2 or place % 6 < 2
    ]
    columns = kuairand_columns(data := read_kuairand(write_folder(tmp_path, LOG, history, 60, 80)), first_test_day=3)
    is_late = data.is_history & (data.hour >= -10_000 + 48)
    is_liked = data.videos % 2 == data.users % 2
    taste = columns["cross__taste_lift"]
    assert taste[is_late & is_liked].mean() > taste[is_late & ~is_liked].mean() + 0.01


def test_the_latest_rows_come_newest_first_without_the_block_and_only_earlier_ones():
    users, at = np.array([4, 4, 4, 4, 7]), np.array([0, 1, 2, 3, 0])
    is_listed = np.array([True, False, True, True, True])
    found = latest(users, at, at, (at, at), is_listed)
    assert found.shape == (5, HISTORY_LENGTH)
    assert found[:, :3].tolist() == [[-1, -1, -1], [0, -1, -1], [0, -1, -1], [2, 0, -1], [-1, -1, -1]]
    blocks = np.array([0, 0, 2, 3, 0]), np.array([2, 2, 3, 3, 1])
    found = latest(users, at, np.full(5, 4), blocks, is_listed)
    assert found[:, :3].tolist() == [[3, 2, -1], [3, 2, -1], [3, 0, -1], [3, 2, 0], [-1, -1, -1]]


def test_trees_learn_from_the_latest_rows_of_a_history_and_networks_from_all(tmp_path):
    history = [(0, place, 0, 1) for place in range(30)]
    parts = kuairand_parts(read_kuairand(write_folder(tmp_path, LOG, history)), is_tuning=False)
    assert parts.train.weights.tolist() == [0.5] * 18 + [1.0] * 12 + [3.0] * 2
    assert without_older(parts.train).weights.tolist() == [1.0] * 12 + [3.0] * 2


def test_every_column_is_read_by_a_feature_and_trees_read_no_list(data):
    columns = kuairand_columns(data, first_test_day=3)
    of_trees = {name for name in tree_columns(columns) if TREES_ONLY in name}
    assert len(of_trees) == 4
    assert {f.name for f in kuairand_features(data, columns)} == set(columns) - of_trees
    assert all(columns[name].ndim == 1 for name in tree_columns(columns))
