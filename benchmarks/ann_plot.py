"""Recall against latency, one mark per setting."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

MARKS = "osD^vP<>X*"


def plot_recall(path: Path, points: Sequence[tuple[str, float, float, bool]], title: str) -> Path:
    """`path`, a PNG. A point is its family, milliseconds, recall and whether it is the default, which is ringed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    families = list(dict.fromkeys(family for family, *_ in points))
    for mark, family in zip(MARKS, families, strict=False):
        of = sorted((ms, recall) for name, ms, recall, _ in points if name == family)
        axes.plot(*zip(*of, strict=True), marker=mark, markersize=6, linewidth=1, label=family)
    for _, ms, recall, _ in (point for point in points if point[3]):
        axes.plot([ms], [recall], marker="o", markersize=15, fillstyle="none", color="black", linestyle="")
        axes.annotate("default", (ms, recall), xytext=(10, -16), textcoords="offset points", fontsize=9)
    axes.set(xscale="log", xlabel="median of one search, ms (one thread)", ylabel="recall@500", title=title)
    axes.grid(visible=True, which="both", linewidth=0.3)
    figure.legend(fontsize=8, loc="outside right upper")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    return path
