"""Every kind of model passes one suite: it finds a planted signal, finds nothing where nothing is,
and its bundle answers like the network that was trained.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from core.errors import BundleError
from core.schema import HEADS
from models.bundle import FirstStageBundle, RetrievalBundle, SecondStageBundle, load_bundle
from models.calibration import apply_calibrators
from models.encode import encode
from models.first_stage import FirstStageConfig
from models.metrics import auc
from models.second_stage import SecondStageConfig
from models.towers import TowerConfig
from tests.planted_examples import examples, spec_of
from training.fit_first_stage import FirstStageRun, fit_first_stage
from training.fit_retrieval import RetrievalConfig, fit_retrieval
from training.fit_second_stage import SecondStageRun, fit_second_stage
from training.loop import LoopConfig

KINDS = ("retrieval", "first_stage", "second_stage")
LOOP = LoopConfig(batch_size=256, max_epochs=6, learning_rate=5e-3, validations_per_epoch=1)
TOWERS = TowerConfig(dim=16, hidden=(32,))


def fit(kind, is_planted, seed=0, rows=6_000):
    has_candidates = kind == "first_stage"
    train = examples(rows, 1, is_planted, has_candidates)
    valid, later = (examples(rows // 2, at, is_planted, has_candidates) for at in (2, 3))
    spec = spec_of(train, with_cross=kind == "second_stage")
    if kind == "retrieval":
        return fit_retrieval(train, valid, spec, RetrievalConfig(TOWERS, replace(LOOP, batch_size=128)), seed, None, 1)
    if kind == "first_stage":
        run = FirstStageRun(FirstStageConfig(TOWERS, top_k=5), LOOP)
        return fit_first_stage(train, valid, spec, run, seed, None, 1)
    network = SecondStageConfig(cross_rank=8, trunk=(32, 16), head_hidden=8, history_length=5)
    return fit_second_stage(train, valid, later, spec, SecondStageRun(network, LOOP), seed, None, 1)


@pytest.fixture(scope="module", params=KINDS)
def planted(request):
    return fit(request.param, is_planted=True)


@pytest.fixture
def saved(planted, tmp_path):
    return planted.save(tmp_path / planted.kind, {"data_version": "v1"})


def answers(bundle, found):
    """What a bundle says about matched rows, [N] or [N, H]."""
    if isinstance(bundle, SecondStageBundle):
        return bundle.logits(found, found, found)
    return (bundle.user_vectors(found) * bundle.post_vectors(found)).sum(1)


def trained_answers(fitted, found):
    sides = [encode(fitted.spec, side, found) for side in ("user", "post", "cross")]
    with torch.no_grad():
        if fitted.kind == "second_stage":
            return fitted.module(*sides).numpy()
        return (fitted.module.user_vectors(sides[0]) * fitted.module.post_vectors(sides[1])).sum(1).numpy()


def test_a_planted_signal_is_found(planted):
    name = {"retrieval": "auc_click", "first_stage": "auc_selected", "second_stage": "auc_click"}[planted.kind]
    assert planted.metrics[name] > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_null_world_the_score_is_chance_on_rows_not_seen(kind):
    fitted = fit(kind, is_planted=False)
    fresh = examples(9_000, 77, is_planted=False, with_candidates=kind == "first_stage")
    score = trained_answers(fitted, fresh.columns)
    if kind == "first_stage":
        label = fresh.columns["candidate__rank"] < 5
    else:
        label, score = fresh.labels[:, 0], score[:, 0] if kind == "second_stage" else score
    assert abs(auc(label, score) - 0.5) < 0.03


def test_the_bundle_answers_like_the_trained_network(planted, saved):
    found = examples(300, 9, True, planted.kind == "first_stage").columns
    np.testing.assert_allclose(answers(load_bundle(saved), found), trained_answers(planted, found), atol=1e-5)


def test_the_bundle_knows_its_kind_spec_and_heads(planted, saved):
    bundle = load_bundle(saved)
    expected = {"retrieval": RetrievalBundle, "first_stage": FirstStageBundle, "second_stage": SecondStageBundle}
    assert type(bundle) is expected[planted.kind]
    assert bundle.bundle_id == saved.name
    assert bundle.spec == planted.spec
    assert bundle.manifest["heads"] == list(planted.heads)
    assert bundle.manifest["versions"]["data_version"] == "v1"


def test_saving_the_same_model_twice_gives_the_same_bundle(planted, saved):
    assert planted.save(saved.parent, {"data_version": "v1"}) == saved
    assert planted.save(saved.parent, {"data_version": "v2"}) != saved
    assert not [p for p in saved.parent.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("name", ["weights.safetensors", "manifest.json"])
def test_an_altered_file_is_refused(saved, name):
    raw = bytearray((saved / name).read_bytes())
    at = raw.rindex(b'"slope"') if b'"slope"' in raw and name == "manifest.json" else len(raw) - 40
    raw[at + 9 if name == "manifest.json" else at] ^= 1
    (saved / name).write_bytes(raw)
    with pytest.raises(BundleError, match=saved.name):
        load_bundle(saved)


@pytest.mark.parametrize("name", ["weights.safetensors", "manifest.json"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(BundleError, match=name):
        load_bundle(saved)


def test_a_bundle_of_another_format_is_refused(saved):
    manifest = json.loads((saved / "manifest.json").read_text()) | {"format_version": 99}
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="format"):
        load_bundle(saved)


def test_loading_and_predicting_needs_no_torchrec(planted, saved, tmp_path):
    found = examples(30, 5, True, planted.kind == "first_stage").columns
    texts = {n: v for n, v in found.items() if v.dtype == object}
    np.savez(tmp_path / "columns.npz", **{n: v for n, v in found.items() if n not in texts})
    (tmp_path / "texts.json").write_text(json.dumps({n: list(v) for n, v in texts.items()}))
    program = f"""
import json, sys
import numpy as np
from pathlib import Path
from models.bundle import load_bundle, SecondStageBundle
columns = dict(np.load({str(tmp_path / "columns.npz")!r}))
texts = json.loads(Path({str(tmp_path / "texts.json")!r}).read_text())
columns |= {{n: np.array(v, dtype=object) for n, v in texts.items()}}
bundle = load_bundle(Path({str(saved)!r}))
if isinstance(bundle, SecondStageBundle):
    assert bundle.probabilities(columns, columns, columns).shape == (30, 9)
else:
    assert bundle.user_vectors(columns).shape == bundle.post_vectors(columns).shape == (30, bundle.dim)
loaded = [m for m in sys.modules if m.split(".")[0] in ("torchrec", "fbgemm_gpu", "mlflow", "feast")]
assert not loaded, loaded
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_one_user_against_many_posts_is_the_user_repeated(planted, saved):
    bundle = load_bundle(saved)
    found = examples(60, 6, True, planted.kind == "first_stage").columns
    one = {n: v[:1] for n, v in found.items()}
    repeated = {n: np.repeat(v[:1], 60, axis=0) for n, v in found.items()}
    if isinstance(bundle, SecondStageBundle):
        together, apart = bundle.logits(one, found, found), bundle.logits(repeated, found, found)
    else:
        together = bundle.post_vectors(found) @ bundle.user_vectors(one)[0]
        apart = (bundle.post_vectors(found) * bundle.user_vectors(repeated)).sum(1)
    np.testing.assert_allclose(together, apart, atol=2e-5)


def test_a_missing_column_is_named(planted, saved):
    bundle = load_bundle(saved)
    found = dict(examples(10, 6, True).columns)
    del found["post__rate"]
    with pytest.raises(ValueError, match="post__rate"):
        answers(bundle, found)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(kind, tmp_path):
    first, again, other = (fit(kind, True, seed, rows=600).save(tmp_path, {}) for seed in (3, 3, 4))
    assert first == again
    assert (first / "weights.safetensors").read_bytes() != (other / "weights.safetensors").read_bytes()


def test_second_stage_probabilities_are_calibrated_per_head():
    fitted = fit("second_stage", is_planted=True)
    assert len(fitted.calibrators) == len(HEADS)
    later = examples(3_000, 3, True)
    probabilities = apply_calibrators(trained_answers(fitted, later.columns), fitted.calibrators)
    for head in ("click", "like", "share"):
        h = HEADS.index(head)
        seen = ~np.isnan(later.labels[:, h])
        assert probabilities[seen, h].mean() / later.labels[seen, h].mean() == pytest.approx(1.0, abs=0.02)
