import numpy as np
import pytest

from core.errors import InputError
from training.published.full_ranking import first_unseen, full_ranking, ndcg, top_places
from training.published.pairs import Pairs, read_pair_split


def write(folder, train, test):
    (folder / "train.txt").write_text(train)
    (folder / "test.txt").write_text(test)
    return folder


def test_users_and_posts_are_numbered_in_order_of_their_ids(tmp_path):
    split = read_pair_split(write(tmp_path, "7 30 10\n3 10\n", "3 30\n"))
    assert split.user_ids.tolist() == [3, 7]
    assert split.post_ids.tolist() == [10, 30]
    assert sorted(zip(split.train.users, split.train.posts, strict=True)) == [(0, 0), (1, 0), (1, 1)]
    assert (split.test.users.tolist(), split.test.posts.tolist()) == ([0], [1])


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        ("1 2\n3\n", "1 2\n", r"train\.txt:2: user 3 has no post"),
        ("1 2\n1 x\n", "1 2\n", r"train\.txt:2: '1 x' is not"),
        ("1 2\n\n", "1 2\n", r"train\.txt:2: '' is not"),
        ("1 2 2\n", "1 2\n", r"train\.txt:1: user 1 names a post twice"),
        ("1 2\n1 3\n", "1 2\n", r"train\.txt:2: user 1 stands in line 1 already"),
        ("1 2\n", "1 2\n4 2\n", r"test\.txt:2: user 4 is in no train line"),
        ("1 2\n2 2\n", "1 2\n2 9\n", r"test\.txt:2: post 9 is in no train line"),
        ("", "1 2\n", r"train\.txt is empty"),
    ],
)
def test_a_line_that_means_nothing_is_refused_with_its_number(tmp_path, train, test, said):
    with pytest.raises(InputError, match=said):
        read_pair_split(write(tmp_path, train, test))


def test_of_many_faults_the_first_are_shown_and_the_others_counted(tmp_path):
    with pytest.raises(InputError, match=r"(?s)train\.txt:5.*and 3 more"):
        read_pair_split(write(tmp_path, "".join(f"{user}\n" for user in range(8)), "1 2\n"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"train\.txt is missing"):
        read_pair_split(tmp_path)


def test_the_tuning_split_takes_nothing_from_the_test_part(tmp_path):
    folder = write(tmp_path, "".join(f"{u} {u} {u + 100} {(u + 1) % 100}\n" for u in range(100)), "0 1\n")
    split = read_pair_split(folder)
    tuning = split.for_tuning(seed=1)
    kept = list(zip(tuning.train.users, tuning.train.posts, strict=True))
    held = list(zip(tuning.test.users, tuning.test.posts, strict=True))
    assert sorted(kept + held) == sorted(zip(split.train.users, split.train.posts, strict=True))
    assert 10 < len(held) < 60


def test_recall_and_ndcg_have_the_values_of_a_calculation_by_hand(tmp_path):
    """User 0: train {0}, test {1, 3}; the ranker says 0, 1, 2, 3: of 1, 2 one is right, at the first place.

    Recall@2 = 1/2; DCG = 1, ideal = 1 + 1/log2(3) = 1.63093; NDCG@2 = .61315.
    User 1: train {1}, test {2}; the ranker says 1, 0, 2: right at the second place: recall 1, NDCG 1/log2(3) = .63093.
    """
    split = read_pair_split(write(tmp_path, "0 0\n1 1\n2 2 3\n", "0 1 3\n1 2\n"))
    order = np.array([[0, 1, 2, 3], [1, 0, 2, 3], [0, 0, 0, 0]])
    found = full_ranking(split, lambda users, num_places: order[users][:, :num_places], k=2)
    assert found["recall@2"] == pytest.approx((0.5 + 1.0) / 2)
    assert found["ndcg@2"] == pytest.approx((1 / 1.6309297536 + 0.6309297536) / 2)


def test_the_ranking_agrees_with_a_slow_one(tmp_path):
    rng = np.random.default_rng(0)
    num_users, num_posts, k = 40, 30, 5
    scores = rng.random((num_users, num_posts)).astype(np.float32)
    lines = {"train": [], "test": []}
    for user in range(num_users):
        posts = rng.permutation(num_posts)
        cut = int(rng.integers(1, 20))
        lines["train"].append(f"{user} {' '.join(map(str, posts[:cut]))}")
        if user % 3:
            lines["test"].append(f"{user} {' '.join(map(str, posts[cut : cut + int(rng.integers(1, 9))]))}")
    lines["train"].append(f"{num_users} {' '.join(map(str, range(num_posts)))}")
    split = read_pair_split(write(tmp_path, "\n".join(lines["train"]), "\n".join(lines["test"])))
    found = full_ranking(split, lambda users, num_places: top_places(scores[users], num_places), k)
    recalls, gains = [], []
    for line in lines["test"]:
        user, *wanted = map(int, line.split())
        seen = {int(p) for p in lines["train"][user].split()[1:]}
        ranked = [p for p in sorted(range(num_posts), key=lambda p: -scores[user, p]) if p not in seen][:k]
        recalls.append(len(set(ranked) & set(wanted)) / len(wanted))
        best = sum(1 / np.log2(place + 2) for place in range(min(k, len(wanted))))
        gains.append(sum(1 / np.log2(place + 2) for place, p in enumerate(ranked) if p in wanted) / best)
    assert found == pytest.approx({"recall@5": np.mean(recalls), "ndcg@5": np.mean(gains)})


def test_a_ranking_without_enough_unseen_posts_is_padded():
    ranked, seen = np.array([[4, 5, 6]]), np.array([[True, False, True]])
    assert first_unseen(ranked, seen, 2).tolist() == [[5, -1]]
    assert ndcg(np.array([[False, False]]), np.array([3])).tolist() == [0.0]


def test_pairs_by_user_keep_users_without_any():
    starts, posts = Pairs(np.array([2, 0, 2]), np.array([7, 8, 9])).by_user(4)
    assert starts.tolist() == [0, 1, 1, 3, 3]
    assert posts.tolist() == [8, 7, 9]
