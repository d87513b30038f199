"""Pictures and what they are drawn from."""

from pathlib import Path

import numpy as np
import pytest

from training.importance import permutation_importance
from training.plots import calibration_bins, plot_calibration, plot_importance, plot_learning_curves


def test_calibration_bins_by_hand() -> None:
    probabilities = np.array([0.4, 0.1, 0.2, 0.3, 0.9])
    labels = np.array([1, 0, 0, 1, np.nan], dtype=np.float32)
    predicted, happened = calibration_bins(probabilities, labels, num_bins=2)
    assert predicted.tolist() == pytest.approx([0.15, 0.35])
    assert happened.tolist() == [0.0, 1.0]


def test_without_labels_there_are_no_bins() -> None:
    predicted, _ = calibration_bins(np.array([0.5]), np.array([np.nan], dtype=np.float32))
    assert len(predicted) == 0


def test_plots_are_written_as_png(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.random((200, 2))
    labels = (rng.random((200, 2)) < probabilities).astype(np.float32)
    paths = [
        plot_calibration(tmp_path / "plots" / "c.png", probabilities, labels, ["click", "like"]),
        plot_learning_curves(tmp_path / "l.png", {"train_loss": [0.5, 0.4], "valid_loss": [0.6]}),
        plot_learning_curves(tmp_path / "empty.png", {}),
        plot_importance(tmp_path / "i.png", {f"f{i}": float(i) for i in range(40)}, "rise of NE"),
    ]
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG")


def test_shuffling_the_used_feature_costs_and_the_unused_one_does_not() -> None:
    rng = np.random.default_rng(0)
    columns = {"used": rng.random(4_000), "unused": rng.random(4_000)}
    labels = (rng.random((4_000, 1)) < columns["used"][:, None]).astype(np.float32)
    importance = permutation_importance(
        lambda c: c["used"][:, None].clip(0.01, 0.99), columns, labels, ["used", "unused"], [0], rng
    )
    assert importance["used"] > 0.2
    assert importance["unused"] == 0.0
