"""AUC against the ids of the stream, and against memory; one line per way of keeping ids."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLOURS = {"plain": "tab:grey", "multi": "tab:orange", "zero_collision": "tab:blue"}
STYLES = {"": "-", "rare filtered": "--", "rare filtered, upsampled": ":"}


def plot_tables(path: Path, runs: Sequence[Mapping[str, Any]], fixed_rows: int) -> Path:
    """`path`, a PNG. Runs have hashing, kind, num_ids, num_rows, auc and peak_megabytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for axes, part in ((left, [r for r in runs if r["num_rows"] == fixed_rows]), (right, list(runs))):
        _lines(axes, part, "num_ids" if axes is left else "peak_megabytes", axes is left)
    left.set(xlabel="ids at a time", title=f"{fixed_rows:,} rows")
    right.set(xlabel="peak memory of the process, MB", title="most ids, rows growing")
    figure.legend(*left.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=4)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    return path


def _lines(axes: Any, runs: Sequence[Mapping[str, Any]], x: str, has_bounds: bool) -> None:
    most = max(run["num_ids"] for run in runs)
    shown = runs if has_bounds else [run for run in runs if run["num_ids"] == most]
    for hashing, colour in COLOURS.items():
        for kind, style in STYLES.items():
            of = sorted((r[x], r["auc"]["model"]) for r in shown if (r["hashing"], r["kind"]) == (hashing, kind))
            if of:
                label = f"{hashing.replace('_', ' ')}{', ' if kind else ''}{kind}"
                axes.plot(*zip(*of, strict=True), style, marker="o", markersize=4, color=colour, label=label)
    if has_bounds:
        for name, label, style in (("oracle", "true effects", "-"), ("features", "known features alone", "--")):
            of = sorted({(run[x], run["auc"][name]) for run in shown})
            axes.plot(*zip(*of, strict=True), color="black", linewidth=0.8, linestyle=style, label=label)
    axes.set(xscale="log", ylabel="AUC of later rows")
    axes.grid(visible=True, which="both", linewidth=0.3)
