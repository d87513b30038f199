"""The KuaiRand benchmark from files to the JSON line, on a small log in which some videos are always watched longer."""

import numpy as np
import pytest

from core.settings import Settings
from tests.small_kuairand import log_line, write_folder
from training.published.formats import benchmark_of
from training.published.kuairand_benchmark import benchmark_kuairand


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    users, videos = 600, 40

    def is_long(video):
        return int(rng.random() < (0.8 if video % 2 else 0.1))

    history = [(u, place, v, is_long(v)) for u in range(users) for place, v in enumerate(rng.integers(0, videos, 8))]
    log = [
        log_line(u, v, day, int(rng.integers(8, 20)), long_view=is_long(v), is_click=is_long(v), tab=int(v % 3))
        for day in range(6)
        for u in range(users)
        for v in rng.integers(0, videos, 4)
    ]
    return write_folder(tmp_path, log, [(u, p, int(v), y) for u, p, v, y in history], users, videos)


@pytest.mark.parametrize("is_tuning", [False, True])
def test_all_models_find_the_videos_that_are_watched_longer(folder, tmp_path, is_tuning):
    settings = Settings(var_dir=tmp_path / "var", dataset="kuairand", num_threads=1)
    assert benchmark_of(folder) is benchmark_kuairand
    outcome = benchmark_kuairand(settings, folder, 1, lambda *_: None, is_quick=True, is_tuning=is_tuning)
    found = outcome.as_json()
    assert found["metrics"]["gauc"]["mean"] > 0.75
    assert all(run["gauc"]["mean"] > 0.75 for run in found["baselines"].values())
    assert {"ndcg@5", "auc_long_view", "ne_long_view", "calibration_long_view", "calibration_frozen_long_view"} <= set(
        found["metrics"]
    )
    interval = found["differences"]["auc_long_view - LightGBM"]
    assert interval["low"] <= interval["difference"] <= interval["high"]
    assert found["peak_bytes"] > 0
