"""The events room's commands: make or import a dataset, compact the journal, describe the log."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from core.clock import WallClock
from core.errors import VitrineError
from core.settings import Settings
from events.importers.dataset import ImportReport, OnStage

app = typer.Typer(help="What happened: the event log of one dataset.", no_args_is_help=True, add_completion=False)


@app.command()
def generate(
    preset: Annotated[str, typer.Option(help="World to make: world, world_b or null_world.")] = "world",
    scale: Annotated[float, typer.Option(min=0.0001, help="Size against the default of 20,000 users.")] = 1.0,
) -> None:
    """Makes a simulated world and its log."""
    from events.synthetic.config import PRESETS
    from events.synthetic.generate import generate as generate_world

    if preset not in PRESETS:
        raise typer.BadParameter(f"no world {preset!r}; there are {', '.join(PRESETS)}", param_hint="--preset")
    workspace = _settings(default=preset).workspace
    with Progress(console=Console(stderr=True)) as progress:
        manifest = generate_world(PRESETS[preset].scaled(scale), workspace, progress)
    _print_rows(f"{manifest.name} {manifest.data_version} in {workspace.root}", manifest.rows)


@app.command()
def import_kuairand(data_dir: Annotated[Path, typer.Option(help="Folder with KuaiRand's files.")]) -> None:
    """Imports any subset of KuaiRand's logs and features."""
    from events.importers.kuairand import import_kuairand as run_import

    with _stages() as on_stage:
        report = run_import(data_dir, _settings(default="kuairand").workspace, on_stage)
    _print_report(report)


@app.command()
def import_own(
    mapping: Annotated[Path, typer.Option(help="YAML file that tells which column is what.")],
    data_dir: Annotated[Path, typer.Option(help="Folder below which the mapping's files lie.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report what would be taken and refused.")] = False,
) -> None:
    """Imports a team's own CSV or Parquet files."""
    from events.importers.own import import_own as run_import

    workspace = _settings(default="own").workspace
    with _stages() as on_stage:
        report = run_import(mapping, data_dir, workspace, WallClock().now(), is_dry_run=dry_run, on_stage=on_stage)
    _print_report(report)


@app.command()
def compact() -> None:
    """Moves what was posted over HTTP from the journal into the log."""
    from events.compact import compact as run_compact

    with _stages() as on_stage:
        on_stage("compact the journal")
        report = run_compact(Settings().workspace)
    _print_rows(f"{report.num_events:,} journal events, {report.num_refused:,} refused", report.num_written)


@app.command()
def describe() -> None:
    """Prints tables, rows, days and time span of the log."""
    from events.describe import describe_log

    settings = Settings()
    manifest = settings.workspace.manifest()
    table = Table("table", "rows", "days", "MB", "first event", "last event")
    for part in describe_log(settings):
        first, last = (at.strftime("%Y-%m-%d %H:%M") if at else "" for at in (part.first_event_at, part.last_event_at))
        table.add_row(part.table, f"{part.num_rows:,}", str(part.num_days), f"{part.size_bytes / 1e6:.1f}", first, last)
    console = Console()
    anchor = manifest.anchor_at.isoformat() if manifest.anchor_at else "none, live"
    console.print(f"{manifest.name}: {manifest.kind}, version {manifest.data_version}, clock anchored at {anchor}")
    console.print(table)


def _settings(default: str) -> Settings:
    """The environment's settings, working in `default` unless the environment names a dataset."""
    settings = Settings()
    return settings if "dataset" in settings.model_fields_set else Settings(dataset=default)


@contextmanager
def _stages() -> Iterator[OnStage]:
    """Shows the stage at work and the time it takes."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("start", total=None)
        yield lambda stage: progress.update(task, description=stage)


def _print_report(report: ImportReport) -> None:
    from events.importers.report import outcome_tables

    console = Console()
    for table in outcome_tables(report):
        console.print(table)
    for note in report.notes:
        console.print(f"note: {note}", markup=False)


def _print_rows(title: str, rows: dict[str, int]) -> None:
    table = Table("table", "rows")
    for name, count in rows.items():
        table.add_row(name, f"{count:,}")
    print(title)
    Console().print(table)


def main() -> None:
    """Runs the command; an expected error is one line and exit code 1."""
    try:
        app()
    except VitrineError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
