"""Two processes on loopback, started by torchrun, against one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.killed_trainings import fitted

MEASURED = {
    "retrieval": {"auc_click": 0.01, "recall_at_100": 0.03},
    "second_stage": {"auc_click": 0.01, "ne_like": 0.01},
}
"""What may lie outside the range of three seeds; the recall is of 219 users, one standard error is .03."""


def started(file: Path) -> subprocess.Popen[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    return subprocess.Popen(
        [sys.executable, *command, "-m", "tests.spread_trainings", str(file), *MEASURED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    file = tmp_path_factory.mktemp("spread") / "found.json"
    with started(file) as process:
        _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors[-3_000:]
    return json.loads(file.read_text())


def test_two_killed_processes_go_on_together_and_end_the_same(of_two, tmp_path):
    file, saved = tmp_path / "found.json", tmp_path / "found.json.saved"
    saved.mkdir()
    with started(file) as process:
        deadline = time.monotonic() + 120
        while len(list((saved / "second_stage-0").glob("*.json"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        for number in (0, 1):
            os.kill(int((saved / f"{number}.pid").read_text()), signal.SIGKILL)
        process.communicate(timeout=60)
    assert process.returncode != 0
    assert not file.exists()
    with started(file) as process:
        told, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors[-3_000:]
    # Retrieval had ended: its checkpoint is its last step.
    assert told.count("resumed at step") == 4
    assert json.loads(file.read_text()) == of_two


@pytest.mark.parametrize("how", ["embed", "pool"])
def test_spread_tables_answer_and_learn_as_whole_ones_on_both_batches(of_two, how):
    assert of_two[how]["lookup"] == 0.0
    assert of_two[how]["update"] < 1e-6


@pytest.mark.parametrize("kind", MEASURED)
def test_two_processes_end_with_the_metrics_of_one(of_two, kind):
    seeds = [fitted(kind, None, seed).metrics for seed in range(3)]
    for name, beyond in MEASURED[kind].items():
        values = np.array([found[name] for found in seeds])
        assert values.min() - beyond <= of_two[kind][name] <= values.max() + beyond, (name, values, of_two[kind][name])
