"""`python -m training COMMAND`: training sets, models, index, offline evaluation."""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from core.errors import VitrineError
from core.logs import configure_logs
from core.memory import keep_freed_memory
from core.settings import Settings

# Everything heavy (torch, feast, mlflow, matplotlib) is imported inside the command that needs it.

app = typer.Typer(
    help="Training sets, models, index and offline evaluation.", no_args_is_help=True, add_completion=False
)
console = Console(stderr=True)

Seed = Annotated[int, typer.Option(help="Decides sampling, initial weights and order of examples.")]
Quick = Annotated[bool, typer.Option("--quick", help="One epoch on few rows: a check that everything runs.")]
Force = Annotated[bool, typer.Option("--force", help="Do it again although nothing changed.")]
Upsampled = Annotated[
    str, typer.Option("--upsample", help="Column of an entity whose rare members' rows are repeated.")
]
Megabytes = Annotated[
    float | None, typer.Option(help="Give tables of ids rows without collisions within this memory.", min=0.0)
]
RecipeName = Annotated[str, typer.Option(help="default, semantic, or reference: the fixed point to compare with.")]


@contextmanager
def _told() -> Iterator[Settings]:
    """Settings for a command whose deliberate errors become one line and exit code 1."""
    try:
        settings = Settings()
        configure_logs(settings.log_level)
        keep_freed_memory()
        # Our own lines do not pass through here; libraries tell of caches, loaders and fonts, line after line.
        logging.getLogger().setLevel(logging.DEBUG if settings.log_level == "DEBUG" else logging.WARNING)
        yield settings
    except VitrineError as error:
        console.print(f"[red]{type(error).__name__}[/red]: ", end="")
        console.print(str(error), markup=False, highlight=False)
        raise typer.Exit(1) from error


@contextmanager
def _bar(title: str) -> Iterator["_Bar"]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=not console.is_terminal) as progress:
        yield _Bar(progress, title)


class _Bar:
    """Progress of one thing; callable as (done, total)."""

    def __init__(self, progress: Progress, title: str) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=None)

    def __call__(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)

    def at(self, what: str, done: int, total: int) -> None:
        self._progress.update(self._task, description=what, completed=done, total=total)

    def tells(self, what: str) -> None:
        """A line of its own, which stays."""
        self._progress.console.print(what, markup=False, highlight=False)

    def says(self, what: str) -> None:
        self._progress.update(self._task, description=what)


def _result(fields: dict[str, object]) -> None:
    """Prints the machine-readable last line of a command."""
    sys.stdout.write(json.dumps(fields) + "\n")


@app.command()
def sets(
    only: Annotated[list[str] | None, typer.Option("--set", help="second_stage, retrieval, first_stage.")] = None,
    max_rows: Annotated[int | None, typer.Option(help="Rows of the second-stage set; others follow.")] = None,
    seed: Seed = 0,
    quick: Quick = False,
    force: Force = False,
) -> None:
    """Join sampled impressions with the features known at their serve time."""
    with _told() as settings:
        from core.errors import ConfigError
        from feature_repo.exported import read_exports
        from training.sets import build_set, set_configs

        has_foundation = "user_foundation" in read_exports(settings.workspace)
        rows = max_rows or (60_000 if quick else None)
        configs = set_configs(settings.workspace.manifest(), rows, seed, has_foundation)
        unknown = sorted(set(only or ()) - set(configs))
        if unknown:
            raise ConfigError(f"no training set {', '.join(unknown)}; there are {', '.join(configs)}")
        has_candidates = any((settings.workspace.log / "candidates").glob("day=*/*.parquet"))
        wanted = only or [name for name in configs if name != "first_stage" or has_candidates]
        table = Table("set", "rows", "train", "valid", "calib", "test", "", title="Training sets")
        built: dict[str, object] = {}
        for name in wanted:
            with _bar(f"Joining {name}") as bar:
                found, is_new = build_set(settings, configs[name], bar, is_forced=force)
            m = found.manifest
            parts = [f"{m.rows_by_split[part]:,}" for part in ("train", "validation", "calibration", "test")]
            table.add_row(name, f"{m.rows:,}", *parts, "built" if is_new else "unchanged")
            built[name] = {"rows": m.rows, "set_id": m.set_id, "is_new": is_new}
        console.print(table)
        _result({"sets": built})


@app.command()
def leaks(
    names: Annotated[list[str] | None, typer.Argument(help="Training sets; default every one there is.")] = None,
    cuts: Annotated[int, typer.Option(min=1, help="Instants per set at which the features are rebuilt.")] = 5,
    trust: Annotated[list[str] | None, typer.Option(help="Features that may predict a label alone.")] = None,
    seed: Seed = 0,
) -> None:
    """Refuse training sets that hold what was not known at its use."""
    with _told() as settings:
        from training.leak_audit import audit_sets, built_sets
        from training.leak_checks import AuditConfig
        from training.leak_report import audit_table, require_clean, write_audit

        workspace = settings.workspace
        config = AuditConfig(num_cuts=cuts, trusted=tuple(trust or ()), seed=seed)
        with _bar("Audit") as bar:
            audits = audit_sets(settings, names or built_sets(workspace), config, bar.at)
        report = write_audit(workspace, audits, config, workspace.clock(settings.clock).now())
        console.print(audit_table(audits))
        _result({"leaks": {audit.name: len(audit.leaks) for audit in audits}, "report": str(report)})
        require_clean(audits, report)


@app.command()
def retrieval(
    recipe: RecipeName = "default",
    seed: Seed = 0,
    quick: Quick = False,
    force: Force = False,
    table_megabytes: Megabytes = None,
    upsample: Upsampled = "",
) -> None:
    """Train two-tower retrieval."""
    _train("retrieval", recipe, seed, quick, force, table_megabytes, upsample)


@app.command("second-stage")
def second_stage(
    recipe: RecipeName = "default",
    seed: Seed = 0,
    quick: Quick = False,
    force: Force = False,
    table_megabytes: Megabytes = None,
    upsample: Upsampled = "",
) -> None:
    """Train the multi-task second stage and calibrate it."""
    _train("second_stage", recipe, seed, quick, force, table_megabytes, upsample)


@app.command("table-budget")
def table_budget(
    megabytes: Annotated[float, typer.Option(min=0.0, help="For all tables of ids together.")],
    name: Annotated[str, typer.Option("--set", help="second_stage, retrieval.")] = "second_stage",
) -> None:
    """Show which tables of ids get rows without collisions, and from which count on, within a budget."""
    with _told() as settings:
        from training import recipes
        from training.set_files import load_set
        from training.train import planned_tables

        columns = load_set(settings.workspace.training_sets, name).examples("train").columns
        recipe = (recipes.retrieval if name == "retrieval" else recipes.second_stage)(columns)
        plan = planned_tables(recipe.features, columns, megabytes)
        table = Table("table", "ids with a row", "rows", "from count", "bytes", "occurrences covered")
        for of, p in plan.items():
            cells = [f"{number:,}" for number in (p.num_own_ids, p.num_rows, p.min_count, p.bytes)]
            table.add_row(of, *cells, f"{p.covered_share:.1%}")
        console.print(table)
        _result({of: asdict(p) for of, p in plan.items()})


@app.command("first-stage")
def first_stage(recipe: RecipeName = "default", seed: Seed = 0, quick: Quick = False, force: Force = False) -> None:
    """Distil the first stage from the second stage's ranking of drawn candidates."""
    with _told() as settings:
        from training.processes import require_alone
        from training.sets import build_set, set_configs

        require_alone("training first-stage")
        config = set_configs(settings.workspace.manifest(), 60_000 if quick else None, seed)["first_stage"]
        with _bar("Joining first_stage") as bar:
            build_set(settings, config, bar, is_forced=force)
    _train("first_stage", recipe, seed, quick, force)


@app.command()
def foundation(
    snapshots: Annotated[int, typer.Option(min=1, help="Trainings along history; each makes the rows after it.")] = 4,
    downstream: Annotated[
        bool, typer.Option("--downstream", help="Then join the second stage's set with the vectors and train on it.")
    ] = False,
    seed: Seed = 0,
    quick: Quick = False,
    force: Force = False,
) -> None:
    """Train the foundation user model and export its vectors point-in-time as feature views."""
    with _told() as settings:
        from training.foundation import FoundationOptions, train_foundation
        from training.foundation_downstream import train_downstream
        from training.processes import require_alone

        require_alone("training foundation")
        options = FoundationOptions(snapshots, seed, quick, force)
        with _bar("Foundation") as bar:
            published, exports, steps = train_foundation(settings, options, bar.at)
            if downstream:
                second = train_downstream(settings, seed, quick, steps, bar.at)
        table = Table("step", "seconds", title="From the log to a model that reads the vectors")
        for step, seconds in steps.seconds.items():
            table.add_row(step, f"{seconds:,.1f}")
        console.print(table)
        state = "trained" if published.is_new else "unchanged since the last training"
        console.print(f"foundation {published.bundle_id} {state} ({published.reason})")
        result: dict[str, object] = {"kind": "foundation", "bundle_id": published.bundle_id, "is_new": published.is_new}
        result |= {"rows": {view: done.rows for view, done in exports.items()}, "seconds": steps.seconds}
        result["metrics"] = {name: round(value, 5) for name, value in sorted(published.metrics.items())}
        if downstream:
            result["second_stage"] = {"bundle_id": second.bundle_id, "is_champion": second.is_champion}
        _result(result)


@app.command("foundation-gain")
def foundation_gain(
    heads: Annotated[
        list[str] | None, typer.Option("--head", help="Heads to judge; default the frequent ones.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of the second stage each way.")] = 1,
) -> None:
    """Train the second stage with and without the foundation's vectors on the same rows, and compare."""
    with _told() as settings:
        from training.compare_foundation import WAYS
        from training.compare_foundation import foundation_gain as compare
        from training.evaluate import frequent_heads
        from training.set_files import load_set

        chosen = tuple(heads) if heads else frequent_heads(load_set(settings.workspace.training_sets, "second_stage"))
        with _bar("Second stage") as bar:
            gain = compare(settings, chosen, range(seeds), bar.says)
        table = Table("rows of", "head", "metric", *WAYS, "gain", "spread", title="Second stage")
        said: dict[str, object] = {}
        for group, rows in gain.rows.items():
            for name in (f"{kind}_{head}" for head in chosen for kind in ("auc", "ne", "gauc")):
                without, with_ = (gain.mean(group, way, name) for way in WAYS)
                spread = gain.spread(group, name)
                cells = (f"{without:.4f}", f"{with_:.4f}", f"{with_ - without:+.4f}", f"{spread:.4f}")
                kind, _, head = name.partition("_")
                table.add_row(f"{group} ({rows:,})", head, kind, *cells)
                said[f"{group}/{name}"] = [round(without, 5), round(with_, 5)]
        console.print(table)
        _result({"rows": dict(gain.rows), "seeds": seeds, "without_with": said})


def _train(
    kind: str,
    recipe: str,
    seed: int,
    quick: bool,
    force: bool,
    table_megabytes: float | None = None,
    upsample: str = "",
) -> None:
    with _told() as settings:
        from training.processes import NotFirstError, joined
        from training.train import TrainOptions, train_stage

        options = TrainOptions(recipe, seed, quick, force, table_megabytes, upsample)
        try:
            with joined() as number:
                console.quiet = number > 0
                with _bar(f"Training {kind}") as bar:
                    published = train_stage(settings, kind, options, bar, bar.tells)  # type: ignore[arg-type]
                if number > 0:
                    raise NotFirstError  # there was nothing to train
        except NotFirstError:
            return
        except KeyboardInterrupt:
            console.print("stopped; the same command goes on from the last checkpoint")
            raise typer.Exit(130) from None
        state = "unchanged since the last training" if not published.is_new else "trained"
        alias = "champion" if published.is_champion else "challenger"
        console.print(f"{kind} {published.bundle_id} {state}: {alias} ({published.reason})")
        console.print(_metrics_table(published.metrics))
        _result(
            {
                "kind": kind,
                "bundle_id": published.bundle_id,
                "alias": alias,
                "is_new": published.is_new,
                "metrics": {
                    name: round(published.metrics[name], 5) for name in sorted(published.metrics) if _is_key(name)
                },
            }
        )


def _is_key(metric: str) -> bool:
    """True for what a script wants of a training; the whole is in MLflow."""
    name = metric.split("/")[-1]
    return not name.startswith(("rate_", "gauc_")) and not name.endswith(("_comment", "_share", "_save", "_report"))


def _metrics_table(metrics: Mapping[str, float]) -> Table:
    """Heads as rows and metrics as columns where names are split/metric_head, the others as they are."""
    from core.schema import HEADS

    kinds = ("auc", "gauc", "ne", "calibration")
    table = Table("", *kinds)
    rest = dict(metrics)
    for split in ("validation", "test"):
        for head in HEADS:
            cells = [rest.pop(f"{split}/{kind}_{head}", None) for kind in kinds]
            rest.pop(f"{split}/rate_{head}", None)
            if any(cell is not None for cell in cells):
                table.add_row(f"{split} {head}", *("" if c is None else f"{c:.4f}" for c in cells))
    for name, value in sorted(rest.items()):
        table.add_row(name, f"{value:,.0f}" if name.startswith("cost/") else f"{value:.4f}")
    return table


@app.command()
def index(force: Force = False) -> None:
    """Write the retrieval index and the first stage's post vectors for serving."""
    with _told() as settings:
        from training.index import build_index

        with _bar("Joining the catalogue") as bar:
            reports = build_index(settings, bar, is_forced=force)
        table = Table("vectors of", "bundle", "posts", "width", "", title="Index")
        for r in reports:
            table.add_row(r.kind, r.bundle_id, f"{r.count:,}", str(r.dim), "built" if r.is_new else "unchanged")
        console.print(table)
        _result({r.kind: {"bundle_id": r.bundle_id, "count": r.count, "path": str(r.path)} for r in reports})


@app.command()
def sign() -> None:
    """Sign champions, index and post vectors anew, after their checksums were verified."""
    with _told() as settings:
        from training.sign import sign_champions

        folders = [str(f.relative_to(settings.workspace.root)) for f in sign_champions(settings)]
        console.print(f"signed: {', '.join(folders) or 'nothing, no champion yet'}", soft_wrap=True)
        _result({"signed": folders})


@app.command()
def evaluate(
    heads: Annotated[
        list[str] | None, typer.Option("--head", help="Heads to compare; default the frequent ones.")
    ] = None,
    seed: Seed = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of the second stage and of LightGBM.")] = 1,
) -> None:
    """Compare the champions with popularity, item-to-item and LightGBM on the same rows."""
    with _told() as settings:
        from training.evaluate import evaluate as compare
        from training.evaluate import frequent_heads
        from training.evaluation_report import record_evaluation
        from training.set_files import load_set

        chosen = tuple(heads) if heads else frequent_heads(load_set(settings.workspace.training_sets, "second_stage"))
        with _bar("Evaluating") as bar:
            found = compare(settings, chosen, bar.says, seed, seeds)
        wide = console if console.is_terminal else Console(stderr=True, width=110)
        for table in record_evaluation(settings, found, chosen):
            wide.print(table)
        _result({"ranking": found.ranking.mean, "spread": found.ranking.spread, "retrieval": found.retrieval})


@app.command()
def survival(
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of the first stage; 1 judges the champion.")] = 1,
) -> None:
    """How much of the second stage's top survives the first stage's cut, on requests of held-out users."""
    with _told() as settings:
        from training.survival import measure_survival
        from training.survival_report import record_survival, survival_metrics, target_line

        with _bar("Survival") as bar:
            found = measure_survival(settings, bar.says, seeds)
        wide = console if console.is_terminal else Console(stderr=True, width=180)
        for table in record_survival(settings, found):
            wide.print(table)
        if line := target_line(found):
            wide.print(line, highlight=False)
        _result({"seeds": seeds, **{name: round(value, 5) for name, value in survival_metrics(found).items()}})


@app.command()
def benchmark(
    dataset: Annotated[
        str, typer.Argument(help="gowalla, movielens1m, beauty, kuairand, or a name for another set in their format.")
    ],
    data_dir: Annotated[
        Path,
        typer.Option(
            help="Folder with train.txt and test.txt (pairs), KuaiRand's files, or one text file (sequences)."
        ),
    ],
    seeds: Annotated[int, typer.Option(min=1, help="Trainings, with seeds 0, 1, ...")] = 1,
    tune: Annotated[
        bool, typer.Option("--tune", help="Judge on a part of what is trained on, and leave the test part alone.")
    ] = False,
    quick: Quick = False,
) -> None:
    """Train on published data and stand beside published figures."""
    with _told() as settings:
        from training.published.formats import benchmark_of

        # A workspace of its own, whatever VITRINE_DATASET says.
        own = Settings(**(dict(settings) | {"dataset": dataset}))
        run = benchmark_of(data_dir)
        with _bar(f"Benchmark {dataset}") as bar:
            outcome = run(own, data_dir, seeds, bar.at, is_quick=quick, is_tuning=tune)
        console.print(outcome.table())
        _result(outcome.as_json())


if __name__ == "__main__":
    app()
