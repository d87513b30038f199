import numpy as np
import pytest

from models.own_rows import BUCKET_ROWS, RowOwners, no_owners, rows_owned


def ids(*values):
    return np.array(values, dtype=np.int64)


def ones(of):
    return np.ones(len(of), dtype=np.int64)


def test_every_id_has_a_row_of_its_own_until_four_in_five_are_taken():
    owners = RowOwners(no_owners(8_000))
    wanted = np.arange(6_400) * 1_000_003
    owners.admit(wanted, ones(wanted), 1)
    rows = rows_owned(owners.owners, wanted)
    assert (rows >= 0).mean() > 0.9995
    assert len(np.unique(rows[rows >= 0])) == (rows >= 0).sum()
    assert (owners.owners[rows[rows >= 0]] == wanted[rows >= 0]).all()


def test_unknown_ids_and_null_have_no_row():
    owners = RowOwners(no_owners(64))
    owners.admit(ids(5, 7), ids(1, 1), 1)
    assert (rows_owned(owners.owners, ids(6, -1, 10**15)) == -1).all()
    assert rows_owned(owners.owners, ids(5, 7, 5, -1).reshape(2, 2)).shape == (2, 2)


def test_lru_gives_the_row_of_the_id_not_met_for_longest():
    owners = RowOwners(no_owners(BUCKET_ROWS))  # one bucket: both choices are it
    first = np.arange(8)
    owners.admit(first, ones(first), 1)
    owners.admit(ids(0, 1, 2, 3, 4, 6, 7), np.ones(7, dtype=np.int64), 2)
    row_of_5 = rows_owned(owners.owners, ids(5))
    assert owners.admit(ids(100), ids(1), 3).tolist() == row_of_5.tolist()
    assert rows_owned(owners.owners, ids(5, 100)).tolist() == [-1, row_of_5[0]]


def test_an_owner_met_in_this_step_is_not_sent_away():
    owners = RowOwners(no_owners(BUCKET_ROWS))
    many = np.arange(12)
    assert len(owners.admit(many, ones(many), 1)) == 8
    assert owners.admit(np.arange(20, 21), ids(1), 1).size == 0


def test_lfu_compares_occurrences_since_last_met():
    owners = RowOwners(no_owners(BUCKET_ROWS), "lfu")
    owners.admit(np.arange(8), ids(9, 9, 9, 9, 9, 9, 9, 4), 1)
    assert owners.admit(ids(50), ids(1), 2).size == 0  # 4 occurrences a step ago: worth 2
    row_of_7 = rows_owned(owners.owners, ids(7))
    assert owners.admit(ids(51), ids(3), 2).tolist() == row_of_7.tolist()
    assert owners.counts[row_of_7[0]] == 3


def test_who_may_not_enter_gets_nothing_and_the_oftener_met_go_first():
    owners = RowOwners(no_owners(BUCKET_ROWS), "lfu")
    many = np.arange(10)
    owners.admit(many, many + 1, 1, many != 9)
    assert sorted(owners.owners.tolist()) == list(range(1, 9))


@pytest.mark.parametrize("eviction", ["lru", "lfu"])
def test_like_a_plain_dictionary_when_buckets_never_overflow(eviction):
    rng = np.random.default_rng(1)
    owners, oracle = RowOwners(no_owners(4_096), eviction), {}
    for step in range(1, 6):
        found, counts = np.unique(rng.integers(0, 2**40, 300), return_counts=True)
        owners.admit(found, counts, step)
        oracle |= dict.fromkeys(found.tolist(), True)
    rows = rows_owned(owners.owners, np.array(list(oracle)))
    assert len(set(rows.tolist())) == len(oracle)
    assert (rows >= 0).all()
