"""Drift as people see it: a table for the console, a plot, and a page that the Data Docs link to."""

import html
import json
from pathlib import Path
from typing import Any

from rich.table import Table

from core.files import write_atomically
from core.workspace import Workspace
from validation.docs_site import DRIFT_PAGE, DRIFT_PLOT
from validation.drift import DRIFTED, WATCH, DriftReport

MOST_BARS = 30
MOST_LINES = 10
_COLOURS = {"stable": "#4c9a6a", "watch": "#d9a441", "drifted": "#c0504d", "few rows": "#9aa0a6"}


def drift_report_path(workspace: Workspace) -> Path:
    """Where the last comparison is kept, every feature in it."""
    return workspace.reports / "drift.json"


def publish_drift(workspace: Workspace, report: DriftReport) -> None:
    """Writes the report, its plot and its page."""
    write_atomically(drift_report_path(workspace), json.dumps(report.to_json(), indent=1))
    _plot(workspace.docs / DRIFT_PLOT, report)
    write_atomically(workspace.docs / DRIFT_PAGE, _page(report))


def drift_table(found: dict[str, Any]) -> Table:
    """The features that moved most, from what `drift_report_path` holds."""
    table = Table("feature", "PSI", "by chance", "rows before", "rows now", "", title=_title(found))
    for feature in found["features"][:MOST_LINES]:
        table.add_row(
            feature["feature"],
            f"{feature['psi']:.3f}",
            f"{feature['noise']:.3f}",
            f"{feature['num_before']:,}",
            f"{feature['num_now']:,}",
            feature["level"],
        )
    return table


def _title(found: dict[str, Any]) -> str:
    if found["accepted_until"] is None:
        return "The first accepted build, nothing to compare with"
    counts = [f"{sum(f['level'] == level for f in found['features'])} {level}" for level in _COLOURS]
    return f"Drift against the build up to {found['accepted_until'][:16]}: {', '.join(counts)}"


def _plot(path: Path, report: DriftReport) -> None:
    # The object interface with the Agg canvas: pyplot would pick a backend and keep global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = report.features[:MOST_BARS][::-1]
    figure = Figure(figsize=(9, max(2.5, 0.25 * len(shown) + 1.2)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.barh([f.feature for f in shown], [f.psi for f in shown], color=[_COLOURS[f.level] for f in shown])
    for limit, level in ((WATCH, "watch"), (DRIFTED, "drifted")):
        axes.axvline(limit, color=_COLOURS[level], linestyle="--", linewidth=1, label=f"{level} {limit:.2f}")
    axes.set(xlabel="population stability index", title="Drift against the last accepted build")
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=8, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def _page(report: DriftReport) -> str:
    lines = "".join(
        f"<tr><td>{html.escape(f.feature)}</td><td>{f.psi:.4f}</td><td>{f.noise:.4f}</td><td>{f.num_before:,}</td>"
        f'<td>{f.num_now:,}</td><td style="color:{_COLOURS[f.level]}">{f.level}</td></tr>'
        for f in report.features
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Drift of features</title>'
        "<style>body{font-family:sans-serif;margin:2rem}td,th{padding:.2rem .8rem;text-align:right}"
        "td:first-child,th:first-child{text-align:left}img{max-width:100%}</style></head><body>"
        f'<p><a href="index.html">Data Docs</a></p><h1>{html.escape(_title(report.to_json()))}</h1>'
        f'<img src="{DRIFT_PLOT}" alt="features that moved most">'
        "<table><tr><th>feature</th><th>PSI</th><th>by chance</th><th>rows before</th><th>rows now</th><th></th></tr>"
        f"{lines}</table></body></html>"
    )
