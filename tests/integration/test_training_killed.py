"""Trainings killed with SIGKILL, in processes of their own, end where an unbroken one does, to the bit."""

import multiprocessing
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from tests.killed_trainings import train

KILLS = 5


@pytest.fixture(scope="module")
def started():
    """Starts a training in a fresh process that need not import everything again."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.killed_trainings", "torchrec", "fbgemm_gpu"])

    def start(kind: str, folder: Path, is_saved: bool = True) -> BaseProcess:
        folder.mkdir(exist_ok=True)
        process = context.Process(target=train, args=(kind, str(folder), is_saved))
        process.start()
        return process

    return start


def bundle_id(folder: Path) -> str:
    (bundle,) = (folder / "bundles").iterdir()
    return bundle.name


def half_written(folder: Path) -> bool:
    """Whether a checkpoint's data are there without the JSON that makes them count."""
    names = [path.name for path in folder.glob("*")]
    return any(n.endswith(".safetensors") and n.replace(".safetensors", ".json") not in names for n in names)


@pytest.mark.parametrize("kind", ["retrieval", "first_stage", "second_stage"])
def test_killed_again_and_again_a_training_ends_as_if_never_broken(kind, started, tmp_path):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    process = started(kind, unbroken, is_saved=False)
    process.join(120)
    assert process.exitcode == 0
    rng, kills, saved = np.random.default_rng(0), 0, broken / "checkpoints"
    while kills < KILLS:
        process = started(kind, broken)
        reached = {path.name for path in saved.glob("*.json")}
        while process.is_alive() and {path.name for path in saved.glob("*.json")} <= reached:
            time.sleep(0.001)  # a moment that lies in the training, beyond the last kill
        time.sleep(rng.uniform(0, 0.2))
        if kills % 2:
            while process.is_alive() and not half_written(saved):
                time.sleep(0.0002)
        process.kill()
        process.join(60)
        if process.exitcode == 0:
            break
        assert process.exitcode == -9
        kills += 1
    assert kills >= 3
    if process.exitcode != 0:
        process = started(kind, broken)
        process.join(120)
        assert process.exitcode == 0
    assert bundle_id(broken) == bundle_id(unbroken)
    assert (broken / "told").read_text().count("resumed at step") == kills
