"""`python -m validation events | features | training-set NAME | all`: run a gate, print its verdict."""

import json
from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from core.errors import VitrineError
from core.settings import Settings
from core.workspace import Workspace
from validation.docs_site import DRIFT_PAGE, index_page
from validation.report import SuiteReport

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Gates: what must be true of the data.")
Told = Callable[[str], None]


@app.command()
def events() -> None:
    """Judge the log; bad rows go to quarantine, a broken table stops."""
    from validation.gates import check_events

    settings = Settings()
    _run("events", settings, lambda told: check_events(settings, settings.workspace.clock(settings.clock), told))


@app.command()
def features() -> None:
    """Judge the feature tables; bad rows go to quarantine, a broken table stops."""
    from validation.gates import check_features

    settings = Settings()
    _run("features", settings, lambda told: check_features(settings, settings.workspace.clock(settings.clock), told))
    _print_drift(settings.workspace)


@app.command("training-set")
def training_set(names: Annotated[list[str], typer.Argument(help="Folders below training_sets/.")]) -> None:
    """Judge training sets and look for leaks."""
    from validation.gates import check_training_set

    settings = Settings()
    clock = settings.workspace.clock(settings.clock)
    for name in names:
        _run(f"training set {name}", settings, partial(check_training_set, settings, clock, name))


@app.command("all")
def everything() -> None:
    """Judge the log, the feature tables and every training set that is there."""
    from validation.gates import training_set_names

    events()
    features()
    training_set(training_set_names(Settings().workspace))


def _run(title: str, settings: Settings, gate: Callable[[Told], list[SuiteReport]]) -> None:
    """Runs the gate under a progress line and prints its table; exits with 1 and the message when it refuses."""
    console = Console()
    try:
        with Progress(
            SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console
        ) as progress:
            task = progress.add_task(f"gate {title}")
            reports = gate(lambda suite: progress.update(task, description=f"gate {title}: {suite}"))
            progress.update(task, description=f"gate {title}", completed=1, total=1)
    except VitrineError as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from error
    console.print(_table(title, reports))
    for report in reports:
        for reason, count in report.reasons.items():
            console.print(f"  {report.suite}: {count:,} rows quarantined, {reason}", markup=False, highlight=False)
    console.print(f"Data Docs: {index_page(settings.workspace.docs)}", soft_wrap=True, highlight=False)


def _print_drift(workspace: Workspace) -> None:
    from validation.drift_page import drift_report_path, drift_table

    path = drift_report_path(workspace)
    found = json.loads(path.read_text())
    console = Console()
    if found["accepted_until"] is None:
        console.print("Drift: the first accepted build, nothing to compare with", highlight=False)
        return
    console.print(drift_table(found))
    console.print(f"Every feature: {path} and {workspace.docs / DRIFT_PAGE}", soft_wrap=True, highlight=False)


def _table(title: str, reports: list[SuiteReport]) -> Table:
    table = Table(title=f"Gate {title}")
    table.add_column("suite")
    for name in ("expectations", "rows", "quarantined"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for report in reports:
        verdict = "passed" if report.is_passed else "refused"
        counts = (report.num_expectations, report.num_rows, report.num_quarantined)
        table.add_row(report.suite, *(f"{count:,}" for count in counts), verdict)
    return table


if __name__ == "__main__":
    app()
