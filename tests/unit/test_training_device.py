"""Where trainings compute: on a GPU in bfloat16, on the CPU in float32, and whole again on the CPU afterwards."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from core.errors import ConfigError
from models.bundle import load_bundle
from models.embeddings import export_state
from models.first_stage import FirstStageConfig
from models.foundation import FoundationConfig
from models.fused import FusedTable
from models.second_stage import SecondStageConfig
from models.sequence import SequenceConfig
from models.towers import TowerConfig
from tests.event_sequences import CLICKED, SEEN, catalogue_of, event_sequences
from tests.other_device import other_device
from tests.planted_examples import examples, spec_of
from training.checkpoints import Checkpoints, held
from training.device import CPU, training_device
from training.fit_first_stage import FirstStageRun, fit_first_stage
from training.fit_foundation import FoundationRun, Material, fit_foundation
from training.fit_retrieval import RetrievalConfig, fit_retrieval
from training.fit_second_stage import SecondStageRun, fit_second_stage
from training.fit_sequence import SequenceRun, fit_sequence
from training.foundation import foundation_spec
from training.hard_negatives import HardNegatives
from training.loop import LoopConfig
from training.published.pair_towers import fit_pairs, pair_config
from training.published.pairs import Pairs

SHORT = LoopConfig(batch_size=256, max_epochs=2, validations_per_epoch=1)
LONG = LoopConfig(batch_size=128, max_epochs=6, learning_rate=5e-3, validations_per_epoch=1)
TOWERS = TowerConfig(dim=8, hidden=(16,))
NETWORK = SecondStageConfig(cross_rank=4, trunk=(16, 8), head_hidden=4, history_length=4)
STAGES = ("retrieval", "first_stage", "second_stage")
EVERY_KIND = (*STAGES, "hard_negatives", "all_posts", "history_encoder", "foundation", "sequence")
has_gpu = torch.cuda.is_available()


def fit(kind, device, loop=SHORT, rows=600, checkpoints=None, progress=None):
    """A stage that was fitted to planted examples."""
    train, valid = (examples(rows, seed, True, kind == "first_stage") for seed in (1, 2))
    spec = spec_of(train, with_cross=kind in ("second_stage", "history_encoder"))
    rest = {"progress": progress, "num_threads": 1, "checkpoints": checkpoints, "device": device}
    if kind == "first_stage":
        return fit_first_stage(train, valid, spec, FirstStageRun(FirstStageConfig(TOWERS, top_k=5), loop), 0, **rest)
    if kind in ("retrieval", "hard_negatives"):
        hard = HardNegatives(1, 1, 10) if kind == "hard_negatives" else None
        return fit_retrieval(train, valid, spec, RetrievalConfig(TOWERS, loop, hard_negatives=hard), 0, **rest)
    network = NETWORK if kind == "second_stage" else replace(NETWORK, history_encoder="hstu", history_dim=8)
    return fit_second_stage(train, valid, valid, spec, SecondStageRun(network, loop), 0, **rest)


def fitted_module(kind, device):
    rng = np.random.default_rng(0)
    if kind == "all_posts":
        pairs = Pairs(np.repeat(np.arange(40), 5), rng.integers(0, 30, 200))
        config = replace(pair_config(200, 40, is_quick=True), spectral_damping=None)
        config = replace(config, network=replace(config.network, dim=7), loop=replace(config.loop, batch_size=20))
        return fit_pairs(pairs, 40, 30, config, 0, None, 1, device).module
    if kind == "sequence":
        posts = rng.integers(1, 20, (64, 8))
        run = SequenceRun(SequenceConfig(dim=8, length=7, num_layers=1), replace(SHORT, batch_size=32))
        return fit_sequence(posts[:, :-1], posts[:, -1], 20, run, 0, None, 1, device=device).module
    if kind == "foundation":
        network = FoundationConfig(SequenceConfig("transformer", dim=16, length=9, num_layers=1), dim=8, hidden=16)
        events = event_sequences([12] * 30, rng.integers(0, 16, 360), rng.choice([SEEN, CLICKED], 360))
        catalogue = catalogue_of(np.arange(16) % 4)
        spec = foundation_spec(events, catalogue, 100)
        material = Material.of(events, catalogue, spec, network.window, 100)
        run = FoundationRun(network, replace(SHORT, batch_size=8), drawn_posts=8)
        return fit_foundation(material, spec, run, np.zeros(30, dtype=bool), None, 0, None, 1, device=device)[0]
    return fit(kind, device).module


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_on_another_device_every_training_ends_with_the_same_bits_on_the_host(kind, monkeypatch):
    with other_device(monkeypatch) as device:
        there, here = fitted_module(kind, device), fitted_module(kind, CPU)
    expected = export_state(here)
    for name, weight in export_state(there).items():
        assert torch.equal(weight, expected[name]), name


def test_what_a_network_on_another_device_is_saved_as_is_taken_up_there(monkeypatch, tmp_path):
    def stop(done, _):
        if done == 4:
            raise KeyboardInterrupt

    plan = Checkpoints(tmp_path / "run", "key", every_seconds=0)
    with other_device(monkeypatch) as device:
        whole = fit("second_stage", device)
        with pytest.raises(KeyboardInterrupt), held(plan):
            fit("second_stage", device, checkpoints=plan, progress=stop)
        with held(plan):
            resumed = fit("second_stage", device, checkpoints=plan)
    expected = export_state(whole.module)
    assert all(torch.equal(weight, expected[name]) for name, weight in export_state(resumed.module).items())


@pytest.mark.parametrize("kind", ["retrieval", "second_stage"])
def test_bfloat16_learns_as_much_as_float32(kind):
    full, low = (fit(kind, CPU, replace(LONG, precision=p), 3_000) for p in ("float32", "bfloat16"))
    assert full.metrics["auc_click"] > 0.85
    assert low.metrics["auc_click"] == pytest.approx(full.metrics["auc_click"], abs=0.01)
    weights = export_state(full.module)
    changed = [name for name, weight in export_state(low.module).items() if not torch.equal(weight, weights[name])]
    assert changed, "nothing was computed in bfloat16"
    assert all(weight.dtype == torch.float32 for weight in export_state(low.module).values())


@pytest.mark.skipif(has_gpu, reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_a_clear_error():
    with pytest.raises(ConfigError, match=r"VITRINE_DEVICE is cuda.*no GPU.*set VITRINE_DEVICE to auto or cpu"):
        training_device("cuda")
    assert training_device("auto") == training_device("cpu") == CPU


def test_an_entry_table_stays_on_the_host():
    table = FusedTable("post", 10, 4)
    assert torch.nn.Sequential(table).to("meta")[0].weight.device == CPU


@pytest.mark.skipif(not has_gpu, reason="needs a GPU")
@pytest.mark.parametrize("kind", STAGES)
def test_trained_on_a_gpu_in_bfloat16_and_served_on_the_cpu(kind, tmp_path):
    device = training_device("cuda")
    trained, here = fit(kind, device, LONG, 3_000), fit(kind, CPU, LONG, 3_000)
    name = "auc_selected" if kind == "first_stage" else "auc_click"
    assert trained.metrics[name] == pytest.approx(here.metrics[name], abs=0.02)
    assert load_bundle(trained.save(tmp_path, {})).spec == trained.spec


@pytest.mark.skipif(not has_gpu, reason="needs a GPU")
@pytest.mark.parametrize("kind", ["all_posts", "hard_negatives", "history_encoder", "foundation", "sequence"])
def test_every_other_training_runs_on_a_gpu(kind):
    weights = export_state(fitted_module(kind, training_device("cuda")))
    assert all(weight.device == CPU and weight.isfinite().all() for weight in weights.values())
