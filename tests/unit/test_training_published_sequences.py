import numpy as np
import pytest

from core.errors import InputError
from core.settings import Settings
from models.sequence import SequenceConfig
from training.fit_sequence import SequenceRun, fit_sequence, newest
from training.loop import LoopConfig
from training.published.sequence_benchmark import benchmark_sequences, sequence_file
from training.published.sequences import leave_one_out, read_sequences


def test_sequences_keep_their_order_and_repeats(tmp_path):
    (tmp_path / "s.txt").write_text("1 30 10 30\n2 20 10 30 20\n")
    found = read_sequences(tmp_path / "s.txt")
    assert found.post_ids.tolist() == [10, 20, 30]
    assert found.posts.tolist() == [[3, 1, 3, 0], [2, 1, 3, 2]]
    assert found.but_last(2).tolist() == [[3, 0, 0, 0], [2, 1, 0, 0]]
    assert found.last(1).tolist() == [3, 2]
    assert found.last(2).tolist() == [1, 3]


def test_a_sequence_too_short_to_leave_posts_out_is_refused_with_its_line(tmp_path):
    (tmp_path / "s.txt").write_text("1 30 10 30\n2 20 10\n")
    with pytest.raises(InputError, match=r"s\.txt:2: user 2 has 2 posts"):
        read_sequences(tmp_path / "s.txt")


def test_last_posts_that_nothing_else_tells_of_are_counted_with_their_line(tmp_path, capsys):
    (tmp_path / "s.txt").write_text("1 30 10 30\n2 20 10 99\n3 10 20 98\n")
    read_sequences(tmp_path / "s.txt")
    said = "".join(capsys.readouterr())
    assert "count as missed" in said
    assert "users=2" in said or '"users":2' in said
    assert "first_line=2" in said or '"first_line":2' in said


def test_a_folder_with_two_files_is_refused(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("1 2 3 4\n")
    with pytest.raises(InputError, match="2 text files"):
        sequence_file(tmp_path)


def test_hit_rate_and_ndcg_have_the_values_of_a_calculation_by_hand():
    """Three users, posts 1 to 4; the wanted posts end at places 1, 2 and 3, history left out, of which k = 2 counts."""
    scores = np.array([[0.9, 0.8, 0.1, 0.2], [0.5, 0.9, 0.4, 0.7], [0.9, 0.8, 0.7, 0.1]], dtype=np.float32)
    history = np.array([[1, 0], [4, 0], [0, 0]])
    found = leave_one_out(lambda rows: scores[rows], history, np.array([2, 1, 3]), k=2)
    assert found["hr@2"] == pytest.approx(2 / 3)
    assert found["ndcg@2"] == pytest.approx((1 + 1 / np.log2(3)) / 3)


def test_a_wanted_post_that_stands_in_the_history_is_still_found():
    found = leave_one_out(lambda rows: np.array([[0.9, 0.1]], np.float32), np.array([[1]]), np.array([1]), k=1)
    assert found["hr@1"] == 1.0


def test_equal_scores_do_not_help():
    found = leave_one_out(lambda rows: np.zeros((1, 5), np.float32), np.zeros((1, 1), np.int64), np.array([1]), k=4)
    assert found["hr@4"] == 0.0


def test_the_newest_posts_are_kept_in_order():
    rows = np.array([[1, 2, 3, 4], [5, 6, 0, 0]])
    assert newest(rows, 2).tolist() == [[3, 4], [5, 6]]
    assert newest(rows, 6).tolist() == [[1, 2, 3, 4, 0, 0], [5, 6, 0, 0, 0, 0]]


def cycles(num_users, num_posts, is_planted, seed=0):
    """Users walk around a circle of posts, or jump at random."""
    rng = np.random.default_rng(seed)
    start, length = rng.integers(0, num_posts, num_users), 8
    if is_planted:
        return (start[:, None] + np.arange(length)) % num_posts + 1
    return rng.integers(1, num_posts + 1, (num_users, length))


@pytest.mark.parametrize("kind", ["transformer", "hstu"])
def test_the_next_post_of_a_walk_is_found(kind):
    walks = cycles(400, 20, is_planted=True)
    loop = LoopConfig(batch_size=64, max_epochs=12, learning_rate=5e-3, schedule="constant")
    run = SequenceRun(SequenceConfig(kind, dim=16, length=10, dropout=0.0), loop)
    fitted = fit_sequence(walks[:, :-1], walks[:, -1], 20, run, num_threads=1)
    assert min(entry["valid_loss"] for entry in fitted.history) < 0.05


def test_where_nothing_is_to_learn_the_loss_stays_that_of_chance():
    walks = cycles(400, 20, is_planted=False)
    loop = LoopConfig(batch_size=64, max_epochs=4, learning_rate=1e-3, schedule="constant")
    run = SequenceRun(SequenceConfig(dim=16, length=10), loop)
    fitted = fit_sequence(walks[:, :-1], walks[:, -1], 20, run, num_threads=1)
    assert min(entry["valid_cross_entropy"] for entry in fitted.history) > np.log(20) - 0.1


def test_the_benchmark_compares_encoders_with_popularity(tmp_path):
    walks = cycles(60, 20, is_planted=True)
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "walks.txt").write_text("\n".join(f"{u} {' '.join(map(str, row))}" for u, row in enumerate(walks)))
    settings = Settings(var_dir=tmp_path / "var", dataset="walks")
    outcome = benchmark_sequences(settings, folder, 2, lambda *_: None, is_quick=True, is_tuning=False)
    assert list(outcome.runs) == ["transformer", "hstu", "pooled", "popularity"]
    assert len(outcome.runs["transformer"]) == 2
    assert set(outcome.as_json()["metrics"]) == {"hr@10", "ndcg@10"}


def test_tuning_needs_one_more_post_of_everybody(tmp_path):
    (tmp_path / "s.txt").write_text("1 30 10 30\n2 20 10 30 20\n")
    settings = Settings(var_dir=tmp_path / "var", dataset="short")
    with pytest.raises(InputError, match=r"s\.txt:1: user 1 has 3 posts; leave-one-out needs at least 4"):
        benchmark_sequences(settings, tmp_path, 1, lambda *_: None, is_quick=True, is_tuning=True)
