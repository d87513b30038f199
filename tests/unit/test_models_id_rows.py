import numpy as np
import pytest
import torch

from core.errors import BundleError
from models.bundle import load_bundle, save_bundle
from models.embeddings import EntryTables, PlainTables, PooledTables
from models.encode import encode
from models.features import Feature, FeatureSpec, fit_spec
from models.fit_ids import fit_ids
from models.multi_hash import rows_of_hashes
from models.rare_ids import CountSketch
from models.towers import TowerConfig, TwoTower

IDS = np.array([70_001] * 4 + [80_002] * 3 + [90_003] * 2 + [95_004] + [-1], dtype=np.int64)


def spec_of(**changes):
    kinds = {"table": "post", "num_rows": 40, "dim": 4} | changes
    features = (
        Feature("post", "post", "categorical", **kinds),
        Feature("seen", "user", "sequence", length=2, **kinds),
    )
    columns = {"post": IDS, "seen": np.full((len(IDS), 2), -1)}
    return fit_ids(fit_spec(features, columns), columns)


def rows(spec, ids):
    return encode(spec, "post", {"post": np.array(ids, dtype=np.int64)}).ids[:, 0].tolist()


def test_ids_of_training_have_rows_of_their_own_and_all_others_share_one():
    found = rows(spec_of(hashing="zero_collision"), [70_001, 80_002, 90_003, 95_004, 123, 456, -1])
    assert len(set(found[:4])) == 4
    assert min(found[:4]) > 1
    assert found[4:] == [1, 1, 0]


@pytest.mark.parametrize("hashing", ["plain", "multi", "zero_collision"])
def test_rare_ids_share_a_row(hashing):
    spec = spec_of(hashing=hashing, min_count=3)
    found = rows(spec, [70_001, 80_002, 90_003, 95_004, 7, -1])
    assert found[2:] == [1, 1, 1, 0]
    assert min(found[:2]) > 1


def test_shared_rows_are_chosen_by_hash():
    found = rows(spec_of(hashing="zero_collision", num_shared=5), range(200))
    assert set(found) == {1, 2, 3, 4, 5}


def test_sequences_find_the_same_rows_and_keep_their_padding():
    spec = spec_of(hashing="zero_collision")
    seen = encode(spec, "user", {"seen": np.array([[80_002, -1]])}).sequences["seen"]
    assert seen.tolist() == [[rows(spec, [80_002])[0], -1]]


def test_a_spec_whose_ids_were_not_fitted_is_refused():
    with pytest.raises(ValueError, match="table post"):
        rows(FeatureSpec(spec_of(hashing="zero_collision").features), [1])


@pytest.mark.parametrize("changes", [{"hashing": "cuckoo"}, {"min_count": 0}, {"hashing": "multi", "num_rows": 5}])
def test_senseless_hashing_is_refused(changes):
    with pytest.raises(ValueError, match="feature post"):
        spec_of(**changes)


def test_two_hashes_by_hand():
    codes = torch.tensor([[5, -1, 0, 1]], dtype=torch.int32)
    first = (5 * 1_103_515_245 + 12_345) % (2**31 - 1) % 98 + 2
    second = (5 * 1_299_709_007 + 715_827_883) % (2**31 - 1) % 98 + 2
    assert rows_of_hashes(codes, 100, 1).tolist() == [[first, second, -1, -1, 0, 0, 1, 1]]


def test_a_vector_is_the_mean_of_its_two_rows_in_training_and_serving():
    spec = spec_of(hashing="multi")
    torch.manual_seed(0)
    codes = {"post": encode(spec, "post", {"post": IDS}).ids, "seen": torch.tensor([[70_003, -1]] * len(IDS))}
    entry = EntryTables(spec)
    weight = entry.fused["post"].weight
    pair = rows_of_hashes(codes["post"], 40, 1)
    twin = PlainTables(spec)
    twin.load_state_dict(entry.export())
    expected = (weight[pair[:, 0]] + weight[pair[:, 1]]) / 2
    torch.testing.assert_close(entry.embed(codes)["post"][:, 0], expected)
    torch.testing.assert_close(twin.embed(codes)["post"][:, 0], expected)
    torch.testing.assert_close(twin.pool(codes)["post"], expected)
    pooled = PooledTables(spec)
    twin.load_state_dict(pooled.export())
    for name, vectors in pooled.pool(codes).items():
        torch.testing.assert_close(vectors, twin.pool(codes)[name])


def test_the_bundle_carries_who_owns_which_row(tmp_path):
    spec = spec_of(hashing="zero_collision", min_count=2)
    config = TowerConfig(dim=4, hidden=(4,))
    module = TwoTower(spec, config, 1, is_training=True)
    path = tmp_path / save_bundle(tmp_path, "retrieval", module, spec, config, ["click"], [], {}, {})
    loaded = load_bundle(path)
    wanted = [70_001, 80_002, 90_003, 95_004, 1, -1]
    assert rows(loaded.spec, wanted) == rows(spec, wanted)
    assert loaded.post_vectors({"post": IDS}).shape == (len(IDS), 5)
    with (path / "spec.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    with pytest.raises(BundleError, match=r"spec.safetensors does not match"):
        load_bundle(path)


def test_counts_are_never_too_low_and_stop_at_255():
    sketch = CountSketch.sized_for(1_000)
    ids = np.arange(1_000) * 7_919
    sketch.add(ids, np.arange(1_000) % 5)
    sketch.add(ids[:2], np.array([300, 2]))
    counts = sketch.counts(ids)
    assert (counts >= np.minimum(np.arange(1_000) % 5, 255)).all()
    assert counts[0] == 255
    assert (counts[2:] == np.arange(2, 1_000) % 5).mean() > 0.9
