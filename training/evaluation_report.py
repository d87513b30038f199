"""The offline evaluation as tables to print, a JSON file under reports/, and a run in MLflow."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table

from core.files import write_atomically
from core.settings import Settings
from models.metrics import finite
from training.evaluate import RECALL_AT, Evaluation
from training.tracking import RunRecord, Tracker

if TYPE_CHECKING:
    from collections.abc import Mapping

RANKING_METRICS = ("auc", "gauc", "ne", "calibration")


def record_evaluation(settings: Settings, found: Evaluation, heads: Sequence[str]) -> list[Table]:
    """The tables to print, after the evaluation was written to reports/offline.json and to MLflow."""
    workspace = settings.workspace
    path = workspace.reports / "offline.json"
    data_version = workspace.manifest().data_version
    write_atomically(path, json.dumps({"data_version": data_version, **asdict(found)}, indent=2))
    metrics = {
        f"{task}/{_slug(model)}/{name}": value
        for task, table in (
            ("ranking", found.ranking.mean),
            ("ranking_spread", found.ranking.spread),
            ("retrieval", found.retrieval),
        )
        for model, values in table.items()
        for name, value in values.items()
    }
    Tracker(settings).record(
        RunRecord(
            kind="offline_evaluation",
            config={
                "heads": list(heads),
                "test_rows": found.ranking.rows,
                "seeds": found.ranking.seeds,
                "queries": found.queries,
            },
            tags={"data_version": data_version},
            metrics=finite(metrics),
            artifacts={"tables": [path]},
        )
    )
    return [_ranking_table(found, heads), _retrieval_table(found)]


def _slug(model: str) -> str:
    return model.lower().replace(" ", "_").replace("-", "_")


def _ranking_table(found: Evaluation, heads: Sequence[str]) -> Table:
    ranking = found.ranking
    seeds = f", mean ± deviation of {ranking.seeds} seeds" if ranking.seeds > 1 else ""
    title = f"Ranking, {ranking.rows:,} test rows, recalibrated on the day before each test day{seeds}"
    table = Table("head", "model", *(name.upper() if len(name) < 5 else name for name in RANKING_METRICS), title=title)
    for head in heads:
        for model, values in ranking.mean.items():
            spread = ranking.spread.get(model, {})
            table.add_row(head, model, *(_cell(values, f"{name}_{head}", spread) for name in RANKING_METRICS))
        table.add_section()
    return table


def _retrieval_table(found: Evaluation) -> Table:
    title = f"Retrieval, {found.queries:,} positives of the first test day"
    table = Table("model", *(f"recall@{k}" for k in RECALL_AT), title=title)
    for model, values in found.retrieval.items():
        table.add_row(model, *(_cell(values, f"recall_at_{k}") for k in RECALL_AT))
    return table


def _cell(values: "Mapping[str, float]", name: str, spread: "Mapping[str, float] | None" = None) -> str:
    if name not in values:
        return ""
    return f"{values[name]:.4f}" + (f" ± {spread[name]:.4f}" if spread else "")
