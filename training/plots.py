"""Pictures of a run, drawn without a display and written as PNG: calibration, learning curves, importance."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 10
MAX_BARS = 30


def _new_figure(width: float, height: float) -> tuple[Any, Any]:
    # The object interface with the Agg canvas: pyplot would pick a backend and keep global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def calibration_bins(
    probabilities: NDArray[np.float64], labels: NDArray[np.float32], num_bins: int = NUM_BINS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean prediction and mean outcome per bin, [bins] each; bins hold equal numbers of labelled rows."""
    is_known = ~np.isnan(labels)
    order = np.argsort(probabilities[is_known], kind="stable")
    predicted, happened = probabilities[is_known][order], labels[is_known][order]
    bins = [rows for rows in np.array_split(np.arange(len(order)), num_bins) if len(rows)]
    means = [(predicted[rows].mean(), happened[rows].mean()) for rows in bins]
    table = np.array(means, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def plot_calibration(
    path: Path, probabilities: NDArray[np.float64], labels: NDArray[np.float32], heads: Sequence[str]
) -> Path:
    """`path`, a log-log picture of outcome against prediction, one line per head; inputs [N, H]."""
    figure, axes = _new_figure(6, 6)
    floor = 1e-5
    for h, head in enumerate(heads):
        predicted, happened = calibration_bins(probabilities[:, h], labels[:, h])
        if len(predicted):
            axes.plot(np.maximum(predicted, floor), np.maximum(happened, floor), marker="o", markersize=3, label=head)
    axes.plot([floor, 1], [floor, 1], color="grey", linestyle="--", linewidth=1, label="perfect")
    axes.set(xscale="log", yscale="log", xlabel="mean prediction", ylabel="mean outcome", title="Calibration by decile")
    axes.legend(fontsize=8)
    return _written(figure, path)


def plot_learning_curves(path: Path, curves: Mapping[str, Sequence[float]]) -> Path:
    """`path`, one line per curve over epochs."""
    figure, axes = _new_figure(7, 4.5)
    for name, values in curves.items():
        axes.plot(np.arange(1, len(values) + 1), values, marker="o", markersize=3, label=name)
    axes.set(xlabel="epoch", title="Learning curves")
    if curves:
        axes.legend(fontsize=8)
    return _written(figure, path)


def plot_importance(path: Path, importance: Mapping[str, float], what: str) -> Path:
    """`path`, bars of the most important features; `what` names the unit."""
    top = sorted(importance.items(), key=lambda item: -item[1])[:MAX_BARS][::-1]
    figure, axes = _new_figure(8, max(2.5, 0.25 * len(top) + 1))
    axes.barh([name for name, _ in top], [value for _, value in top])
    axes.set(xlabel=what, title="Permutation importance")
    axes.tick_params(labelsize=7)
    return _written(figure, path)


def plot_survival(path: Path, curves: Mapping[str, Sequence[tuple[int, float]]], title: str) -> Path:
    """`path`, share that survives against the size of the cut, one line per ranker and width."""
    figure, axes = _new_figure(8, 5)
    for name, points in curves.items():
        cuts, shares = zip(*points, strict=True)
        axes.plot(cuts, shares, marker="o", markersize=3, label=name)
    axes.set(xscale="log", xlabel="kept after the cut", ylim=(0, 1.02), title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return _written(figure, path)


def _written(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    return path
