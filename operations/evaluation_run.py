"""One evaluation from start to report: progress, tables, plot, JSON, rows, and the run in MLflow."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from core.settings import Settings
from operations.evaluate import EvaluationConfig, Platform, evaluate, num_requests, world_manifest
from operations.outcome import Outcome
from operations.report import (
    breakdown_table,
    label,
    loss_table,
    metrics,
    result_table,
    summary_line,
    write_json,
    write_plot,
)
from operations.retrain import retrained
from operations.runtimes import RuntimePlatform, opened
from operations.visits import held_out_population


def run_evaluation(settings: Settings, config: EvaluationConfig, out: Console) -> dict[str, Any]:
    """The evaluation as one flat JSON object; tables go to `out`, files to reports/, the run to MLflow."""
    world_manifest(settings)
    population = held_out_population(settings)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=Console(stderr=True))
    with progress, _platforms(settings, config, progress) as platforms:
        task = progress.add_task("serving", total=num_requests(config, min(config.num_users, len(population))))

        def advance(policy: str) -> None:
            progress.update(task, advance=1, description=label(policy))

        outcome = evaluate(settings, config, platforms, population, advance)
    out.print(result_table(outcome))
    out.print(breakdown_table(outcome))
    if outcome.losses:
        out.print(loss_table(outcome.losses))
    paths = write_reports(outcome, settings.workspace.reports)
    run_id = record(settings, config, outcome, paths)
    for path in paths:
        out.print(f"written: {path}", highlight=False)
    return summary_line(outcome, paths) | {"run_id": run_id}


class _Platforms:
    """Opens the platform for each seed: one for all, or one with models of that seed."""

    def __init__(self, settings: Settings, progress: Progress, shared: RuntimePlatform | None) -> None:
        self._settings = settings
        self._progress = progress
        self._shared = shared

    def __call__(self, seed: int) -> AbstractContextManager[Platform]:
        return self._open(seed)

    @contextmanager
    def _open(self, seed: int) -> Iterator[Platform]:
        if self._shared is not None:
            yield self._shared
            return
        task = self._progress.add_task(f"seed {seed}", total=None)
        with retrained(self._settings, seed, lambda what: self._progress.update(task, description=what)) as scratch:
            self._progress.remove_task(task)
            with opened(scratch) as platform:
                yield platform


@contextmanager
def _platforms(settings: Settings, config: EvaluationConfig, progress: Progress) -> Iterator[_Platforms]:
    if config.is_retrained:
        yield _Platforms(settings, progress, None)
        return
    with opened(settings) as platform:
        yield _Platforms(settings, progress, platform)


def write_reports(outcome: Outcome, folder: Path) -> list[Path]:
    """Paths of the outcome as JSON and as plot."""
    paths = [folder / "closed_loop.json", folder / "closed_loop.png"]
    write_json(outcome, paths[0])
    write_plot(outcome, paths[1])
    return paths


def record(settings: Settings, config: EvaluationConfig, outcome: Outcome, paths: list[Path]) -> str:
    """The id of the MLflow run that holds the outcome."""
    from training.tracking import RunRecord, Tracker

    versions: Mapping[str, str] = outcome.models
    run = RunRecord(
        kind="closed_loop",
        config=asdict(config)
        | {"specs": {p.policy: p.spec_version for p in outcome.policies}, "models": dict(versions)},
        tags={"data_version": outcome.data_version, "has_headroom": str(outcome.has_headroom).lower()},
        metrics=metrics(outcome),
        artifacts={"closed_loop": paths},
    )
    return Tracker(settings).record(run)
