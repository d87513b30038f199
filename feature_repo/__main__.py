"""`python -m feature_repo`: build, apply and materialise features; run Redis; say what there is."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from core.errors import VitrineError
from core.settings import Settings
from feature_repo.catalog import VIEWS

if TYPE_CHECKING:
    from feature_repo.materialize import ViewMaterialization

app = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)
console = Console()


@app.command()
def build() -> None:
    """Compute every feature view from the log and write it as Parquet."""
    from feature_repo.build import build_features

    settings = Settings()
    with _reported(), _progress("building views") as step:
        built = build_features(
            settings.workspace,
            settings,
            settings.workspace.clock(settings.clock),
            lambda v: step(f"{v.view}: {v.rows:,} rows, {v.seconds:.1f} s"),
        )
    rows = sum(v.rows for v in built.views)
    console.print(f"{len(built.views)} views, {rows:,} rows, up to {built.data_end:%Y-%m-%d %H:%M} UTC")


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
    console.print(f"registered {len(VIEWS)} stored views, 1 on-demand view, services {services}")


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
