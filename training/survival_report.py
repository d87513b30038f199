"""The survival report as tables to print, JSON and a plot under reports/, and a run in MLflow."""

import json
from dataclasses import asdict

from rich.table import Table

from core.files import write_atomically
from core.settings import Settings
from models.metrics import finite
from training.plots import plot_survival
from training.survival import BEST, CURVE, CUTS, FIRST_STAGE, PAGE, Cut, Group, Survival
from training.tracking import RunRecord, Tracker

TARGET_CUT, TARGET_SURVIVAL, TARGET_VALUE = 500, 0.90, 0.97
"""Of 5,000 candidates."""


def record_survival(settings: Settings, found: Survival) -> list[Table]:
    """The tables to print, after the report was written to reports/survival.{json,png} and to MLflow."""
    workspace = settings.workspace
    data_version = workspace.manifest().data_version
    path = workspace.reports / "survival.json"
    write_atomically(path, json.dumps({"data_version": data_version, **asdict(found)}, indent=2))
    curves = {
        f"{ranker}, {group.candidates:,.0f} candidates": [
            (cut, share) for cut, share in zip(CURVE, curve, strict=True) if cut <= group.candidates
        ]
        for group in found.groups.values()
        for ranker, curve in group.curves.items()
    }
    plot = plot_survival(
        workspace.reports / "survival.png", curves, f"Share of the second stage's top {BEST} that survives"
    )
    Tracker(settings).record(
        RunRecord(
            kind="survival",
            config={"seeds": found.seeds, "requests": {name: group.requests for name, group in found.groups.items()}},
            tags={"data_version": data_version},
            metrics=finite(survival_metrics(found)),
            artifacts={"tables": [path], "plots": [plot]},
        )
    )
    return [_table(group, found.seeds) for group in found.groups.values()]


def survival_metrics(found: Survival) -> dict[str, float]:
    """`group/ranker/survival_at_cut` and `value_at_cut`, means."""
    return {
        f"{name}/{ranker.replace(' ', '_').replace('-', '_')}/{what}_at_{cut}": getattr(measured, what)
        for name, group in found.groups.items()
        for ranker, cuts in group.cuts.items()
        for cut, measured in cuts.items()
        for what in ("survival", "value")
    }


def target_line(found: Survival) -> str:
    """Whether the target is met, in words; empty where no request is wide enough to say."""
    if "wide" not in found.groups:
        return ""
    group = found.groups["wide"]
    cut = group.cuts[FIRST_STAGE][TARGET_CUT]
    is_met = cut.survival >= TARGET_SURVIVAL and cut.value >= TARGET_VALUE
    return (
        f"{TARGET_CUT} of {group.candidates:,.0f}: survival {cut.survival:.3f} (target {TARGET_SURVIVAL:.2f}), "
        f"value {cut.value:.4f} (target {TARGET_VALUE:.2f}): {'met' if is_met else 'not met'}"
    )


def _table(group: Group, seeds: int) -> Table:
    title = (
        f"{group.requests} test requests of {group.candidates:,.0f} candidates: share of the second stage's top {BEST} "
        f"that survives the cut, value of the best {PAGE} left; mean ± deviation over requests"
    )
    if seeds > 1:
        title += f" (deviation of the means of {seeds} seeds)"
    table = Table("ranker", *(f"{what} at {cut}" for what in ("top", "value") for cut in CUTS), title=title)
    for ranker, cuts in group.cuts.items():
        cells = [_cell(cuts[cut], what, seeds) for what in ("survival", "value") for cut in CUTS]
        table.add_row(ranker, *cells)
    return table


def _cell(cut: Cut, what: str, seeds: int) -> str:
    of = asdict(cut)
    spread = f" ({of[f'{what}_spread']:.3f})" if seeds > 1 else ""
    return f"{of[what]:.3f} ± {of[f'{what}_deviation']:.3f}{spread}"
