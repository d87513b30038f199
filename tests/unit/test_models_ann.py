"""The index on disk: exact search, refusal of what does not match, atomic publication."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from core.errors import BundleError, MissingStageError
from models.ann import champion_index, load_index, publish_index, write_index

AT = datetime(2026, 1, 15, tzinfo=UTC)


def vectors(n: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def write(root: Path, n: int = 50, exact_below: int = 100_000) -> tuple[np.ndarray, np.ndarray, Path]:
    posts, ids = vectors(n), np.arange(n) * 7 + 3
    manifest = write_index(root, ids, posts, "bundle-a", AT, exact_below)
    return posts, ids, root / manifest.index_id


def test_search_equals_a_sorted_product(tmp_path: Path) -> None:
    posts, ids, path = write(tmp_path)
    users = vectors(4, seed=1)
    found, scores = load_index(path, "bundle-a").search(users, 10)
    for b in range(4):
        products = [float(sum(u * p for u, p in zip(users[b], post, strict=True))) for post in posts]
        best = sorted(range(len(products)), key=lambda n: -products[n])[:10]
        assert found[b].tolist() == [ids[n] for n in best]
        np.testing.assert_allclose(scores[b], [products[n] for n in best], rtol=1e-4)


def test_many_posts_take_an_inverted_file_with_high_recall(tmp_path: Path) -> None:
    centres = vectors(20)
    posts = centres[np.arange(4_000) % 20] + 0.3 * vectors(4_000, seed=1)
    manifest = write_index(tmp_path, np.arange(4_000), posts, "bundle-a", AT, exact_below=1_000)
    assert manifest.factory.startswith("IVF")
    users = posts[:40]
    found, _ = load_index(tmp_path / manifest.index_id, "bundle-a").search(users, 10)
    exact = np.argsort(-(users @ posts.T), axis=1)[:, :10]
    recall = np.mean([len(set(f) & set(e)) / 10 for f, e in zip(found.tolist(), exact.tolist(), strict=True)])
    assert recall > 0.9


def test_fewer_posts_than_wanted_are_padded(tmp_path: Path) -> None:
    _, _, path = write(tmp_path, n=3)
    found, scores = load_index(path, "bundle-a").search(vectors(1), 5)
    assert (found[0, 3:] == -1).all()
    assert np.isneginf(scores[0, 3:]).all()


def test_an_index_of_another_model_is_refused_with_what_to_run(tmp_path: Path) -> None:
    _, _, path = write(tmp_path)
    with pytest.raises(BundleError, match=r"made by bundle bundle-a.*is bundle-b; run `python -m training index`"):
        load_index(path, "bundle-b")


@pytest.mark.parametrize("name", ["index.faiss", "post_ids.npy"])
def test_an_altered_file_is_refused(tmp_path: Path, name: str) -> None:
    _, _, path = write(tmp_path)
    raw = bytearray((path / name).read_bytes())
    raw[-1] ^= 1
    (path / name).write_bytes(raw)
    with pytest.raises(BundleError, match="SHA-256"):
        load_index(path, "bundle-a")


def test_a_missing_file_or_manifest_is_a_bundle_error(tmp_path: Path) -> None:
    _, _, path = write(tmp_path)
    (path / "post_ids.npy").unlink()
    with pytest.raises(BundleError, match="cannot be read"):
        load_index(path, "bundle-a")
    with pytest.raises(BundleError, match="cannot be read"):
        load_index(tmp_path / "nowhere", "bundle-a")


def test_vectors_that_are_not_finite_are_refused_naming_posts(tmp_path: Path) -> None:
    posts = vectors(5)
    posts[2, 0] = np.nan
    with pytest.raises(BundleError, match=r"1 posts a vector that is not finite, such as \[12\]"):
        write_index(tmp_path, np.array([10, 11, 12, 13, 14]), posts, "b", AT)
    assert not list(tmp_path.iterdir())


def test_wrong_shapes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="distinct id"):
        write_index(tmp_path, np.array([1, 1]), vectors(2), "b", AT)
    _, _, path = write(tmp_path)
    with pytest.raises(ValueError, match=r"expected \[B, 8\]"):
        load_index(path, "bundle-a").search(vectors(1, dim=5), 1)


def test_publication_points_at_one_index(tmp_path: Path) -> None:
    with pytest.raises(MissingStageError, match="training index"):
        champion_index(tmp_path)
    _, _, path = write(tmp_path)
    publish_index(tmp_path, path.name)
    assert champion_index(tmp_path) == path
    (tmp_path / "champion.json").write_text(json.dumps([]))
    with pytest.raises(BundleError, match="names no index"):
        champion_index(tmp_path)


def test_writing_the_same_index_twice_changes_nothing(tmp_path: Path) -> None:
    _, _, first = write(tmp_path)
    _, _, second = write(tmp_path)
    assert first == second
    assert [p.name for p in tmp_path.iterdir()] == [first.name]


@pytest.mark.parametrize("exact_below", [1, 100_000])
def test_only_eligible_posts_are_found(tmp_path: Path, exact_below: int) -> None:
    posts, ids, path = write(tmp_path, 2_000, exact_below)
    user, eligible = vectors(1, seed=1), np.arange(2_000) % 100 == 7
    found, scores = load_index(path, "bundle-a").search(user, 30, eligible)
    best = sorted(range(7, 2_000, 100), key=lambda n: -float(user[0] @ posts[n]))
    assert found[0].tolist() == [ids[n] for n in best] + [-1] * 10
    np.testing.assert_allclose(scores[0, :20], posts[best] @ user[0], atol=0.01)
    assert (load_index(path, "bundle-a").search(user, 3, np.zeros(2_000, dtype=np.bool_))[0] == -1).all()


def test_a_mask_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    _, _, path = write(tmp_path)
    with pytest.raises(ValueError, match=r"int64 \(50,\); expected one bool per post, \(50,\)"):
        load_index(path, "bundle-a").search(vectors(1), 3, np.arange(50))
    with pytest.raises(ValueError, match="expected one bool per post"):
        load_index(path, "bundle-a").search(vectors(1), 3, np.ones(49, dtype=np.bool_))


def test_what_all_posts_share_costs_no_recall_and_stays_in_the_score(tmp_path: Path) -> None:
    posts = np.concatenate([vectors(4_000), np.full((4_000, 1), -300.0, dtype=np.float32)], axis=1)
    manifest = write_index(tmp_path, np.arange(4_000), posts, "bundle-a", AT, exact_below=1_000)
    users = np.concatenate([vectors(20, seed=1), np.ones((20, 1), dtype=np.float32)], axis=1)
    found, scores = load_index(tmp_path / manifest.index_id, "bundle-a").search(users, 10)
    products = users @ posts.T
    exact = np.argsort(-products, axis=1)[:, :10]
    assert np.mean([len(set(f) & set(e)) / 10 for f, e in zip(found.tolist(), exact.tolist(), strict=True)]) > 0.95
    np.testing.assert_allclose(scores, np.take_along_axis(products, found, axis=1), atol=0.02)


@pytest.mark.parametrize("exact_below", [1, 100_000])
def test_posts_are_added_to_a_copy_of_a_mapped_index_of_any_width(tmp_path: Path, exact_below: int) -> None:
    posts, more = vectors(600, dim=13) + 1, vectors(30, dim=13, seed=2) + 1
    manifest = write_index(tmp_path, np.arange(600), posts, "bundle-a", AT, exact_below)
    index = load_index(tmp_path / manifest.index_id, "bundle-a")
    both = index.with_added(np.arange(600, 630), more)
    user = vectors(1, dim=13, seed=3)
    only_added = np.arange(630) >= 600
    found, scores = both.search(user, 30, only_added)
    assert sorted(found[0].tolist()) == list(range(600, 630))
    np.testing.assert_allclose(scores[0], more[found[0] - 600] @ user[0], atol=0.02)
    assert index.search(user, 700)[0].max() == 599
    assert both.with_added(np.array([630]), more[:1]).search(user, 1, np.arange(631) == 630)[0].tolist() == [[630]]
