"""`python -m serving`: snapshot, candidates for training, the funnel spec, stored feeds, keys, the server."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from core.errors import VitrineError
from core.logs import configure_logs
from core.settings import Settings
from serving.key_commands import keys

if TYPE_CHECKING:
    from serving.bootstrap import Runtime  # imported late: commands start fast

app = typer.Typer(help="What the user gets: snapshot, candidates for training, the HTTP service.", no_args_is_help=True)
app.add_typer(keys, name="keys")
console = Console(stderr=True)


@app.command()
def snapshot() -> None:
    """Builds serving's view of the log: catalogue, trending, popular, neighbours, users."""
    from serving.snapshot import save_snapshot
    from serving.snapshot_build.build import build_snapshot
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


@app.command("explain-spec")
def explain_spec(
    file: Annotated[Path | None, typer.Argument(help="Spec file or folder; default VITRINE_FUNNEL_SPEC.")] = None,
    overlay: Annotated[list[str] | None, typer.Option(help="Overlay by name or file; may be repeated.")] = None,
    is_json: Annotated[bool, typer.Option("--json", help="Plain values instead of a picture.")] = False,
) -> None:
    """Prints the funnel as a diagram, and every tunable path with its value, unit and range."""
    from serving.spec_file import load_spec, read_overlay, spec_files
    from serving.spec_view import as_json, as_view

    overlays = [read_overlay(name) for name in overlay or ()]
    specs = [load_spec(path, overlays) for path in spec_files(file or Settings().funnel_spec)]
    if is_json:
        typer.echo(json.dumps([as_json(spec) for spec in specs], ensure_ascii=False, indent=1))
        return
    for spec in specs:
        Console().print(as_view(spec))


@app.command("spec-schema")
def spec_schema(
    output: Annotated[Path | None, typer.Option(help="File to write; default is the screen.")] = None,
) -> None:
    """Prints the JSON Schema of a funnel spec, for editors."""
    from core.files import write_atomically
    from serving.spec_paths import schema_text

    if output is None:
        typer.echo(schema_text(), nl=False)
    else:
        write_atomically(output, schema_text())


@contextmanager
def _runtime() -> Iterator["Runtime"]:
    """The workspace's runtime for work off the request path, where no deadline may cost a slate a source."""
    from serving.bootstrap import build_runtime

    settings = Settings()
    configure_logs(settings.log_level)
    runtime = build_runtime(settings, is_patient=True)
    try:
        yield runtime
    finally:
        runtime.close()


@app.command()
def precompute(
    most_active: Annotated[
        int | None, typer.Option(min=1, help="Users who saw most lately; default precompute.max_users.")
    ] = None,
    users: Annotated[Path | None, typer.Option(help="Text file with one user id per line, instead.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the exploring draws.")] = 0,
) -> None:
    """Makes slates for chosen users, served at overload and when ranking is down."""
    from rich.progress import track

    from serving.precompute import listed_users
    from serving.precompute import most_active as choose
    from serving.precompute import precompute as run

    with _runtime() as runtime:
        limit = runtime.spec.precompute.max_users
        chosen = listed_users(users) if users else choose(runtime.snapshot.users, min(most_active or limit, limit))
        report = run(
            runtime, chosen, seed,
            progress=lambda steps, total: track(steps, "ranking users", total=total, console=console),
        )  # fmt: skip
    console.print(
        f"precomputed: {report.num_users:,} users, {report.num_bytes / 1e6:.1f} MB "
        f"({report.num_empty:,} had nothing to see) → {report.folder}",
        soft_wrap=True,
    )


@app.command()
def support(
    requests: Annotated[int, typer.Option(min=1, max=100_000, help="Requests to rank, of drawn users.")] = 200,
    page: Annotated[int, typer.Option(min=1, max=100, help="Posts of a page.")] = 20,
    change: Annotated[float, typer.Option(min=0.0, max=1.0, help="Relative change of one weight at a time.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Seed of users and draws.")] = 0,
) -> None:
    """How much of the log an off-policy estimate of changed weights could use: effective sample size over rows."""
    from dataclasses import asdict

    from serving.support import drawn_requests, measure_support, whole_spec

    with _runtime() as runtime:
        funnel = runtime.funnel_for(whole_spec(runtime.spec), seed=seed)
        asked = drawn_requests(runtime.snapshot.users.user_ids, requests, runtime.clock.now(), seed)
        with console.status("ranking"):
            found = measure_support(runtime.spec, funnel, asked, page, change)
    for one in found:
        console.print(
            f"{one.head:>10} x {one.factor:.2f}   per post {one.per_post:.3f}   prefix {one.prefix:.3f}"
            f"   page {one.page:.3f}   covered {one.covered:.3f}",
            highlight=False,
        )
    line = {
        "measure": "support", "spec_version": runtime.spec.version, "requests": requests, "change": change,
        "page_floor": runtime.spec.kept_page_floor,
        "least": {name: min(asdict(one)[name] for one in found) for name in ("per_post", "prefix", "page")},
    }  # fmt: skip
    sys.stdout.write(json.dumps(line) + "\n")


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
    configure_logs(settings.log_level, settings.log_format)
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
