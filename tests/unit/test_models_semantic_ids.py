import numpy as np
import pytest
import torch

from core.errors import InputError
from models.bundle import load_bundle, save_bundle
from models.embeddings import EntryTables, PooledTables, start_tables
from models.encode import encode
from models.features import Feature, FeatureSpec, fit_spec
from models.fit_ids import fit_ids
from models.semantic_ids import codes_of, fit_codebook, semantic_ids
from models.towers import TowerConfig, TwoTower

RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(6, 8))
CONTENT = (CENTRES[np.arange(600) % 6] + 0.1 * RNG.normal(size=(600, 8))).astype(np.float32)


@pytest.fixture(scope="module")
def codebook():
    return fit_codebook(CONTENT, num_levels=3, num_codes=18)


def content_of(codes, codebook):
    """What the codes say of the content: the sum of their centres."""
    return sum(centres[of_level] for centres, of_level in zip(codebook, codes.T, strict=False))


def test_every_level_leaves_a_smaller_error(codebook):
    codes = codes_of(CONTENT, codebook)
    errors = [np.square(CONTENT - content_of(codes[:, :level], codebook)).sum(1).mean() for level in (1, 2, 3)]
    assert np.square(CONTENT).sum(1).mean() > errors[0] > errors[1] > errors[2]


def test_what_was_made_of_codes_gets_the_same_first_code(codebook):
    codes = codes_of(CONTENT, codebook)
    assert (codes_of(content_of(codes[:, :1], codebook), codebook)[:, 0] == codes[:, 0]).all()


def test_a_code_stays_within_a_planted_cluster(codebook):
    first, cluster = codes_of(CONTENT, codebook)[:, 0], np.arange(600) % 6
    assert all(len(np.unique(cluster[first == code])) == 1 for code in np.unique(first))


def test_codes_do_not_depend_on_the_company(codebook):
    together = codes_of(CONTENT, codebook)
    assert (np.concatenate([codes_of(CONTENT[i : i + 1], codebook) for i in range(40)]) == together[:40]).all()


def test_codes_by_hand():
    codebook = np.array([[[0.0], [10.0]], [[-1.0], [1.0]]], dtype=np.float32)
    assert codes_of(np.array([[9.0], [11.5], [1.0], [-3.0]]), codebook).tolist() == [[1, 0], [1, 1], [0, 1], [0, 0]]
    assert semantic_ids(np.array([[1, 0], [1, 1], [0, 1], [-1, -1]]), 2, 2).tolist() == [2, 3, 1, -1]
    assert semantic_ids(np.array([[1, 0], [1, 1]]), 1, 2).tolist() == [1, 1]


def test_no_content_has_no_codes(codebook):
    missing = np.stack([np.zeros(8), np.full(8, np.nan)])
    assert (codes_of(missing, codebook) == -1).all()
    with pytest.raises(InputError, match="no post has a content"):
        fit_codebook(missing)


def features():
    kinds = {"source": "content", "dim": 4}
    return (
        Feature("content", "post", "embedding", dim=8),
        Feature("coarse", "post", "categorical", table="coarse", num_rows=200, level=1, **kinds),
        Feature("fine", "post", "categorical", table="fine", num_rows=50, level=3, **kinds),
        Feature("who", "user", "categorical", table="who", num_rows=9, dim=4),
    )


def test_the_bundle_carries_the_codebook_and_new_posts_get_rows(tmp_path):
    columns = {"content": CONTENT, "who": np.zeros(600, dtype=np.int64)}
    spec = fit_ids(fit_spec(features(), columns), columns)
    config = TowerConfig(dim=4, hidden=(4,))
    module = TwoTower(spec, config, 1, is_training=True)
    loaded = load_bundle(
        tmp_path / save_bundle(tmp_path, "retrieval", module, spec, config, ["click"], [], {}, {})
    ).spec
    unseen = {"content": (CENTRES + 0.01).astype(np.float32)}
    rows = encode(spec, "post", unseen).ids
    assert (encode(loaded, "post", unseen).ids == rows).all()
    assert (rows > 0).all()
    assert len(np.unique(rows[:, 0])) == 6
    # A post nobody had seen shares the coarse row of posts like it.
    assert rows[0, 0] in encode(spec, "post", {"content": CONTENT[::6]}).ids[:, 0].tolist()


def test_a_codebook_of_another_model_is_taken_as_it_is():
    columns = {"content": CONTENT, "who": np.zeros(600, dtype=np.int64)}
    brought = np.zeros((3, 2, 8), dtype=np.float32)
    spec = fit_ids(fit_spec(features(), columns), columns, {"content": brought})
    assert spec.codebooks["content"] is brought


def test_a_spec_without_its_codebook_is_refused_by_name():
    with pytest.raises(ValueError, match="semantic ids of content"):
        encode(FeatureSpec(features()), "post", {"content": CONTENT[:2]})


@pytest.mark.parametrize("kind", [EntryTables, PooledTables])
def test_tables_start_from_those_of_the_same_name_and_shape(kind):
    module = torch.nn.Module()
    module.tables = kind(FeatureSpec(features()))
    weights = {"coarse": torch.ones(200, 4), "fine": torch.ones(49, 4), "elsewhere": torch.ones(2, 2)}
    assert start_tables(module, weights) == ("coarse",)
    after = module.tables.export()
    assert (after["weights.coarse.weight"] == 1).all()
    assert not (after["weights.fine.weight"] == 1).any()
