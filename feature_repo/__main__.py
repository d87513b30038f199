"""`python -m feature_repo`: build, apply and materialise features; run Redis; say what there is."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from core.errors import VitrineError
from core.settings import Settings
from feature_repo.catalog import ALL_VIEWS, VIEWS

if TYPE_CHECKING:
    from feature_repo.materialize import ViewMaterialization

app = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)
console = Console()


@app.command()
def build(
    full: Annotated[bool, typer.Option("--full", help="Compute everything again.")] = False,
    since: Annotated[
        datetime | None, typer.Option("--from", help="Compute the hours that end at this instant (UTC) or later again.")
    ] = None,
    until: Annotated[datetime | None, typer.Option(help="With --from: up to this instant; later rows stay.")] = None,
) -> None:
    """Bring every feature view up to the log, from what changed since the last build, and write it as Parquet."""
    from feature_repo.build import HourRange, build_features

    if until is not None and since is None:
        raise typer.BadParameter("--until needs --from")
    hours = None if since is None else HourRange(_utc(since), None if until is None else _utc(until))
    settings = Settings()
    with _reported(), _progress("building views") as step:
        built = build_features(
            settings.workspace,
            settings,
            settings.workspace.clock(settings.clock),
            lambda view, rows, seconds: step(f"{view}: {rows:,} rows written, {seconds:.1f} s"),
            is_full=full,
            hours=hours,
        )
    rows = sum(v.rows for v in built.views)
    said = _hours_said(built.hours)
    console.print(f"{said}: {len(built.views)} views, {rows:,} rows, up to {built.data_end:%Y-%m-%d %H:%M} UTC")


@app.command()
def apply() -> None:
    """Register the definitions with Feast and link feature_repo/data to this workspace."""
    from feature_repo.link import link_workspace
    from feature_repo.store import apply_definitions

    settings = Settings()
    with _reported(), console.status("registering definitions"):
        store = apply_definitions(settings.workspace)
        link_workspace(settings.workspace)
        services = ", ".join(s.name for s in store.list_feature_services())
    console.print(f"registered {len(ALL_VIEWS)} stored views, 1 on-demand view, services {services}")


@app.command()
def materialize() -> None:
    """Write the latest known features of every entity to Redis, up to the platform's now."""
    from feature_repo.materialize import materialize as run
    from feature_repo.stores.embedded import redis_url

    settings = Settings()
    with _reported():
        redis_url(settings.workspace, settings)
        done = run(
            settings.workspace,
            settings.workspace.clock(settings.clock),
            lambda v: console.print(f"  {v.view}: {_rows(v)}{v.seconds:.1f} s"),
        )
    console.print(f"{len(done)} views in Redis as of {done[0].until:%Y-%m-%d %H:%M} UTC")


@app.command()
def redis_start() -> None:
    """Start the embedded Redis of this workspace, or say where it runs."""
    from feature_repo.stores.embedded import ensure_redis, running_endpoint

    settings = Settings()
    with _reported():
        ensure_redis(settings.workspace, settings)
        endpoint = running_endpoint(settings.workspace)
    where = f"127.0.0.1:{endpoint.port}, process {endpoint.pid}" if endpoint else "VITRINE_REDIS_URL"
    console.print(f"Redis: {where}")


@app.command()
def redis_stop() -> None:
    """Save and stop the embedded Redis of this workspace."""
    from feature_repo.stores.embedded import stop_redis

    with _reported():
        was_running = stop_redis(Settings().workspace)
    console.print("Redis stopped" if was_running else "Redis was not running")


@app.command()
def link() -> None:
    """Point feature_repo/data at this workspace, for bare `feast` commands."""
    from feature_repo.link import link_workspace

    with _reported():
        place = link_workspace(Settings().workspace)
    console.print(f"{place} -> {place.resolve()}")


@app.command()
def describe(
    markdown: Annotated[bool, typer.Option(help="Print the feature reference as Markdown.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write the Markdown here instead.")] = None,
) -> None:
    """Views, grains, features, rows and freshness."""
    from feature_repo.describe import describe_markdown, describe_table

    with _reported():
        if output is not None:
            output.write_text(describe_markdown())
        elif markdown:
            typer.echo(describe_markdown())
        else:
            console.print(describe_table(Settings().workspace))


def _rows(view: "ViewMaterialization") -> str:
    if view.num_rows is None:
        return ""
    return f"{view.num_rows:,} rows, {view.num_written:,} of them news, "


def _utc(at: datetime) -> datetime:
    return at.replace(tzinfo=at.tzinfo or UTC)


def _hours_said(hours: tuple[datetime | None, datetime] | None) -> str:
    if hours is None:
        return "nothing new"
    first, last = hours
    return "everything built" if first is None else f"hours {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} built"


@contextmanager
def _progress(label: str) -> Iterator["Step"]:
    """A bar over the views; calling the value prints what is done and moves it."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield Step(progress, label)


class Step:
    """Reports one finished view."""

    def __init__(self, progress: Progress, label: str) -> None:
        self._progress = progress
        self._task = progress.add_task(label, total=len(VIEWS))

    def __call__(self, said: str) -> None:
        self._progress.console.print(f"  {said}")
        self._progress.advance(self._task)


@contextmanager
def _reported() -> Iterator[None]:
    """Ends the command with the message of an error that was raised on purpose."""
    try:
        yield
    except VitrineError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    app()
