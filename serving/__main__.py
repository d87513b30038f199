"""`python -m serving`: build the snapshot, draw candidates, serve."""

from typing import Annotated

import typer
from rich.console import Console

from core.errors import VitrineError
from core.logs import configure_logs
from core.settings import Settings

app = typer.Typer(help="What the user gets: snapshot, candidates for training, the HTTP service.", no_args_is_help=True)
console = Console(stderr=True)


@app.command()
def snapshot() -> None:
    """Builds serving's view of the log: catalogue, trending, popular, neighbours, users."""
    from serving.snapshot import save_snapshot
    from serving.snapshot_build import build_snapshot
    from serving.spec_file import load_spec

    settings = Settings()
    with console.status("snapshot") as status:
        weights = load_spec(settings.funnel_spec).value_model.weights
        built = build_snapshot(settings, weights, lambda step: status.update(f"snapshot: {step}"))
        folder = save_snapshot(settings.workspace, built)
    console.print(
        f"snapshot {built.snapshot_id}: {len(built.catalogue):,} posts, {len(built.users.user_ids):,} users → {folder}",
        soft_wrap=True,
    )


@app.command("draw-candidates")
def draw_candidates(
    requests: Annotated[int, typer.Option(min=1, max=1_000_000, help="Requests to learn from.")] = 240,
    tests: Annotated[int, typer.Option(min=0, max=1_000_000, help="Requests of held-out users to judge by.")] = 80,
    fewest: Annotated[int, typer.Option(min=2, max=100_000, help="Least candidates ranked per request.")] = 1_000,
    most: Annotated[int, typer.Option(min=2, max=100_000, help="Most candidates ranked per request.")] = 5_000,
    seed: Annotated[int, typer.Option(help="Seed of the sample.")] = 0,
) -> None:
    """Ranks wide candidate sets of sampled requests in full and writes them as the table `candidates`."""
    from rich.progress import track

    from serving.draw_candidates import DrawPlan, draw

    settings = Settings()
    configure_logs(settings.log_level)
    report = draw(
        settings, DrawPlan(requests, tests, fewest, most), seed,
        progress=lambda steps, total: track(steps, "ranking requests", total=total, console=console),
    )  # fmt: skip
    console.print(
        f"candidates: {report.num_requests:,} requests to learn from, {report.num_tests:,} to judge by, "
        f"{report.num_rows:,} rows, features warm after {report.warm_seconds:.1f} s, "
        f"ranked in {report.rank_seconds:.1f} s",
        soft_wrap=True,
    )


@app.command()
def serve(
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port; default VITRINE_PORT.")] = None,
    host: Annotated[str | None, typer.Option(help="Address; default VITRINE_HOST.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes that share the port.")] = 1,
) -> None:
    """Starts the HTTP service and the page."""
    from serving.serve import serve as run

    given = {name: value for name, value in (("port", port), ("host", host)) if value is not None}
    settings = Settings().model_copy(update=given)
    configure_logs(settings.log_level)
    console.print(f"feed and page on http://{settings.host}:{settings.port}/ (stop with Ctrl-C)")
    run(settings, workers)


def main() -> None:
    """Runs a command; an error on purpose ends with its message and status 1."""
    try:
        app()
    except VitrineError as error:
        console.print(f"[bold red]{type(error).__name__}[/]: {error}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
