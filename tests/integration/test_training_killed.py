"""Trainings killed with SIGKILL, in processes of their own, end where an unbroken one does, to the bit."""

import multiprocessing
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from tests.killed_trainings import train

KILLS = 4


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


def names(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.json")}


def is_half_written(folder: Path) -> bool:
    """Whether the newest data are there without the JSON that makes them count."""
    return max((path.stem for path in folder.glob("*.safetensors")), default="") > max(names(folder), default="")


@pytest.mark.parametrize(
    "kind",
    ["second_stage", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("retrieval", "mined", "first_stage"))],
)
def test_killed_again_and_again_a_training_ends_as_if_never_broken(kind, started, tmp_path):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    process = started(kind, unbroken, is_saved=False)
    process.join(120)
    assert process.exitcode == 0
    rng, saved, hits = np.random.default_rng(0), broken / "checkpoints", 0
    for kill in range(KILLS):
        reached = names(saved)
        process = started(kind, broken)
        while process.is_alive() and names(saved) <= reached:
            time.sleep(0.001)  # each kill comes after new checkpoints
        time.sleep(rng.uniform(0, 0.1))
        while kill % 2 and process.is_alive() and not is_half_written(saved):
            pass
        process.kill()
        process.join(60)
        assert process.exitcode == -9
        hits += is_half_written(saved)
    assert hits > 0
    process = started(kind, broken)
    process.join(120)
    assert process.exitcode == 0
    assert bundle_id(broken) == bundle_id(unbroken)
    assert (broken / "told").read_text().count("resumed at step") == KILLS
