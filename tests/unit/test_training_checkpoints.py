import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from core.errors import ConfigError
from tests.killed_trainings import checkpoints
from training.checkpoints import held
from training.loop import LoopConfig, run_training

LOOP = LoopConfig(batch_size=4, max_epochs=3, learning_rate=0.05, validations_per_epoch=1, patience=9)
STEPS = 18


class Run:
    """One training of a line with dropout on 24 rows; the second validation of three is the best."""

    def __init__(self, plan=None, stop_after=None):
        self.batches, self.stop_after = [], stop_after
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            inputs = torch.randn(24, 3)
            self.module = nn.Sequential(nn.Dropout(0.3), nn.Linear(3, 1))

            def loss_of(rows):
                self.batches.append(rows.tolist())
                return (self.module(inputs[rows])[:, 0] - inputs[rows].sum(1)).square().mean()

            def validate():
                return {"valid_loss": abs(len(self.batches) + self.before - 12.0)}

            self.before = 0 if plan is None else newest_step(plan)
            self.history = run_training(self.module, LOOP, 24, loss_of, validate, 0, self.progress, checkpoints=plan)

    def progress(self, step, steps):
        if step == self.stop_after:
            raise KeyboardInterrupt

    @property
    def weights(self):
        return [p.detach() for p in self.module.parameters()]


def newest_step(plan):
    """Step of the newest checkpoint that is whole, by its own words."""
    found = [0]
    for path in plan.folder.glob("*.json"):
        try:
            found.append(json.loads(path.read_text())["state"]["step"])
        except ValueError:
            continue
    return max(found)


def stopped_at_nine(folder, told):
    """The plan of a training stopped at its ninth step, with checkpoints at steps 7 and 8."""
    plan = replace(checkpoints(folder / "run", told.append), largest_share=1e9)  # one at each step
    with pytest.raises(KeyboardInterrupt):
        Run(plan, stop_after=9)
    assert sorted(path.stem[-2:] for path in plan.folder.glob("*.json")) == ["07", "08"]
    return plan


def test_a_stopped_training_goes_on_with_the_same_batches_and_ends_the_same(tmp_path):
    told, unbroken = [], Run()
    resumed = Run(stopped_at_nine(tmp_path, told))
    assert told == [f"resumed at step 8 of {STEPS}"]
    assert resumed.batches == unbroken.batches[8:]
    assert resumed.history == unbroken.history
    assert all(torch.equal(a, b) for a, b in zip(resumed.weights, unbroken.weights, strict=True))


def test_a_training_that_had_ended_gives_its_best_weights_without_a_step(tmp_path):
    plan = checkpoints(tmp_path / "run")
    first = Run(plan)
    again = Run(plan)
    assert again.batches == []
    assert again.history == first.history
    assert all(torch.equal(a, b) for a, b in zip(again.weights, first.weights, strict=True))
    assert not torch.equal(load_file(plan.folder / f"step-{STEPS:012d}.safetensors")["weight/1.bias"], first.weights[1])


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
@pytest.mark.parametrize("is_cut", [True, False])  # else one bit is turned
def test_a_damaged_checkpoint_is_told_of_and_the_one_before_is_used(suffix, is_cut, tmp_path):
    told = []
    plan = stopped_at_nine(tmp_path, told)
    path = plan.folder / f"step-000000000008.{suffix}"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] if is_cut else data[:-40] + bytes([data[-40] ^ 1]) + data[-39:])
    resumed, unbroken = Run(plan), Run()
    assert "step-000000000008.json cannot be used" in told[0]
    assert told[1] == f"resumed at step 7 of {STEPS}"
    assert all(torch.equal(a, b) for a, b in zip(resumed.weights, unbroken.weights, strict=True))


def test_what_was_never_finished_is_removed_and_training_starts_anew(tmp_path):
    plan = stopped_at_nine(tmp_path, [])
    for path in plan.folder.glob("*.json"):
        path.unlink()
    assert len(Run(plan).batches) == STEPS
    assert not list(plan.folder.glob("*000007*"))


def test_a_checkpoint_of_another_training_is_not_taken_up(tmp_path):
    told = []
    plan = replace(stopped_at_nine(tmp_path, told), key="another")
    assert len(Run(plan).batches) == STEPS
    assert all("other settings, set or code" in line for line in told)
    assert len(told) == 2


def test_two_processes_do_not_save_in_one_place_and_success_leaves_nothing(tmp_path):
    plan = checkpoints(tmp_path / "run")
    with held(plan):
        Run(plan)
        with pytest.raises(ConfigError, match="under way in another process"), held(plan):
            pass
    assert list(plan.folder.iterdir()) == []
