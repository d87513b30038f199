import numpy as np
import pytest

from benchmarks.serving_world import _grown_snapshot, copied_ids, grown, jittered, require_finished
from core.errors import MissingStageError
from core.signatures import verify_files, verify_folder, verify_key
from models.ann import load_index, publish_index, write_index
from serving.snapshot import load_snapshot, save_snapshot
from tests.serving_fakes import AS_OF, NUM_POSTS, NUM_USERS, make_settings, make_snapshot

POSTS, USERS = 2 * NUM_POSTS + 100, 70


def test_an_unfinished_workspace_is_refused_with_the_command_that_finishes_it(tmp_path):
    with pytest.raises(MissingStageError, match="make pipeline"):
        require_finished(make_settings(tmp_path).workspace)


def test_copies_lie_near_their_originals_and_are_as_long():
    vectors = np.random.default_rng(1).standard_normal((50, 16)).astype(np.float32)
    many = jittered(vectors, 170, np.random.default_rng(2))
    origin = vectors[np.arange(170) % 50]
    np.testing.assert_array_equal(many[:50], vectors)
    np.testing.assert_allclose(np.linalg.norm(many, axis=1), np.linalg.norm(origin, axis=1), rtol=1e-5)
    cosine = (many * origin).sum(1) / np.linalg.norm(origin, axis=1) ** 2
    assert cosine[50:].min() > 0.9
    assert cosine[50:].max() < 1 - 1e-6


def test_lists_of_a_grown_snapshot_lead_to_copies_of_what_they_led_to():
    snapshot = make_snapshot()
    ids = copied_ids(snapshot.catalogue.post_ids, POSTS)
    large = _grown_snapshot(snapshot, ids, USERS, np.random.default_rng(3))
    assert np.all(np.diff(large.catalogue.post_ids) > 0)
    assert len(large.catalogue) == len(large.lists.neighbours) == POSTS
    assert len(large.users.user_ids) == len(large.users.seen) == USERS
    for row in (5, NUM_POSTS + 5, 2 * NUM_POSTS + 5):
        found = large.lists.neighbours.list_of(row)
        assert found.max() < POSTS
        assert (found % NUM_POSTS).tolist() == snapshot.lists.neighbours.list_of(5).tolist()
    assert len(set(large.lists.trending.list_of(0).tolist()) - set(snapshot.lists.trending.list_of(0).tolist()))
    assert large.users.followed.list_of(NUM_USERS + 3).tolist() == snapshot.users.followed.list_of(3).tolist()
    assert large.catalogue.creator_ids[NUM_POSTS + 7] == snapshot.catalogue.creator_ids[7]
    assert large.external_post_id(NUM_POSTS + 7) == str(ids[NUM_POSTS + 7])


def test_a_grown_workspace_holds_an_index_and_vectors_of_every_post_and_is_kept(tmp_path):
    source = make_settings(tmp_path).workspace
    snapshot = make_snapshot()
    save_snapshot(source, snapshot)
    catalogue = snapshot.catalogue
    manifest = write_index(source.index, catalogue.post_ids, catalogue.content, "bundle-1", AS_OF)
    publish_index(source.index, manifest.index_id)
    vectors = source.index / "first_stage" / "light-1"
    vectors.mkdir(parents=True)
    np.save(vectors / "vectors.npy", catalogue.content)
    np.save(vectors / "post_ids.npy", catalogue.post_ids)
    for kind, bundle_id in (("retrieval", "bundle-1"), ("first_stage", "light-1"), ("second_stage", "heavy-1")):
        (source.bundles / kind).mkdir(parents=True)
        (source.bundles / kind / "champion.json").write_text(f'{{"bundle_id": "{bundle_id}"}}')
    folder = tmp_path / "scratch" / "posts"
    large = grown(source, folder, POSTS, USERS)
    ids = load_snapshot(large).catalogue.post_ids
    (index_folder,) = [path.parent for path in large.index.glob("*/index.faiss")]
    assert load_index(index_folder, "bundle-1").post_ids.tolist() == ids.tolist()
    assert np.load(large.index / "first_stage" / "light-1" / "post_ids.npy").tolist() == ids.tolist()
    for signed in (index_folder, large.index / "first_stage" / "light-1"):
        verify_files(signed, verify_folder(signed, verify_key(source))["sha256"])
    assert verify_key(large) == verify_key(source)
    written = (folder / "grown.json").stat().st_mtime_ns
    assert grown(source, folder, POSTS, USERS) == large
    assert (folder / "grown.json").stat().st_mtime_ns == written
