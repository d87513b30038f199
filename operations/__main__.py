"""`python -m operations COMMAND`: the hourly job, closed-loop evaluation and the state of the workspace."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

from core.clock import Clock
from core.errors import VitrineError
from core.logs import configure_logs
from core.settings import Settings

# Everything heavy is imported inside the command that needs it, so that status starts at once.

app = typer.Typer(
    help="The hourly job, the funnel judged in the world whose truth is known, and what state a workspace is in.",
    no_args_is_help=True,
    add_completion=False,
)
console = Console(stderr=True)


@contextmanager
def _told() -> Iterator[Settings]:
    """Settings for a command whose deliberate errors become one line and exit code 1."""
    try:
        settings = Settings()
        configure_logs("WARNING" if settings.log_level == "INFO" else settings.log_level)
        yield settings
    except VitrineError as error:
        console.print(f"[red]{type(error).__name__}[/red]: ", end="")
        console.print(str(error), markup=False, highlight=False)
        raise typer.Exit(1) from error


@app.command()
def evaluate(
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Draws of users and requests.")] = 5,
    users: Annotated[int, typer.Option(min=1, help="Held-out users per seed.")] = 250,
    retrain: Annotated[
        bool, typer.Option("--retrain/--no-retrain", help="Train the three models anew for every seed.")
    ] = False,
) -> None:
    """True value per impression of the funnel, its baselines and the oracle, over held-out users of the world."""
    with _told() as settings:
        from operations.evaluate import EvaluationConfig
        from operations.evaluation_run import run_evaluation

        line = run_evaluation(settings, EvaluationConfig(seeds, users, is_retrained=retrain), Console())
        sys.stdout.write(json.dumps(line) + "\n")


@app.command()
def skew(
    requests: Annotated[int, typer.Option(min=1, max=100_000, help="Rankings to compare, the last first.")] = 200,
    max_share: Annotated[
        float, typer.Option(min=0, max=1, help="Largest accepted share of values that differ for a known cause.")
    ] = 0.01,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve requests for the audit even where the service has kept some.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the requests that are served for the audit.")] = 0,
) -> None:
    """What the second stage was served against what training would join, value by value; status 1 when it differs."""
    with _told() as settings:
        from operations.skew_run import SkewConfig, run_skew

        line = run_skew(settings, SkewConfig(requests, max_share, serve, seed), Console())
        sys.stdout.write(json.dumps(line) + "\n")
        if not line["ok"]:
            raise typer.Exit(1)


@app.command()
def refresh(
    every: Annotated[
        int | None, typer.Option(min=1, help="Refresh again each so many seconds until stopped; else once.")
    ] = None,
) -> None:
    """The hourly job: compacts posted events, builds the new hours, materialises; status 3 when one is under way."""
    with _told() as settings:
        clock = settings.workspace.clock(settings.clock)
    while True:
        started = time.monotonic()
        try:
            _refresh_once(clock)
        except typer.Exit:
            if every is None:
                raise
        if every is None:
            return
        time.sleep(max(0.0, started + every - time.monotonic()))


def _refresh_once(clock: Clock) -> None:
    from operations.refresh import refresh as run

    with _told() as settings, console.status("refreshing") as shown:
        done = run(settings, clock, shown.update)
    if done is None:
        console.print("another refresh of this workspace is under way; left it to that")
        raise typer.Exit(3)
    sys.stdout.write(done.line() + "\n")
    sys.stdout.flush()


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable instead of a table.")] = False,
) -> None:
    """What is where: freshness of data and features, models, gates, disk, and what is degraded or missing."""
    with _told() as settings:
        from operations.status import status_table, workspace_status

        found = workspace_status(settings)
        if as_json:
            sys.stdout.write(json.dumps(found.to_json()) + "\n")
            return
        out = Console()
        out.print(status_table(found, f"workspace {settings.workspace.root}"))
        for name, parts in (("degraded", found.degraded), ("missing", found.missing)):
            out.print(f"{name}: {', '.join(parts) or 'nothing'}", markup=False, highlight=False)


if __name__ == "__main__":
    app()
