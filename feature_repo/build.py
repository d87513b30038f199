"""Computes the stored feature views from the log with DuckDB and writes them as Parquet, an hour or everything.

    log/ ──▶ building/plan.py (which hours) ──▶ sql/*.sql, day by day ──▶ data/features/<view>/day=…/
                        ▲                                │
                        └──── data/feature_state/ ◀──────┘  sums and last events as of an hour

A build of everything is the same code from an empty state. A reader sees each day's old rows or its new ones.
"""

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from core.clock import Clock
from core.errors import FeatureStoreError, InputError, MissingStageError
from core.files import write_atomically
from core.settings import Settings
from core.workspace import Workspace
from events.lock import exclusive
from events.read import connect
from feature_repo.building.hours import FIRST_HOUR, US_PER_HOUR, instant, micros
from feature_repo.building.log_index import LogIndex, has_observed_kinds, read_log_index
from feature_repo.building.pipelines import pipelines
from feature_repo.building.plan import DataEnd, Plan, plan_next, plan_range, plan_whole
from feature_repo.building.run import OnView, Run
from feature_repo.building.sql import Templates, quoted, recipe
from feature_repo.building.state import BuildRecord, read_record, write_record
from feature_repo.catalog import VIEWS

PROVENANCE = "build.json"


@dataclass(frozen=True)
class ViewBuild:
    """One view: its rows, seconds its build took, and the instants up to which it knows."""

    view: str
    rows: int
    seconds: float
    last_event_at: datetime | None
    last_known_at: datetime | None


@dataclass(frozen=True)
class HourRange:
    """Hours to build anew, by their ends: after `since`, up to `until` (None: to the end of the data)."""

    since: datetime
    until: datetime | None = None


@dataclass(frozen=True)
class FeatureBuild:
    """What a build wrote. `generation` changes when values of existing rows may have changed.

    `hours` are the ends of the first and the last hour that were computed, None where nothing was new; its first is
    None in a build of everything.
    """

    generation: str
    data_end: datetime
    views: tuple[ViewBuild, ...]
    hours: tuple[datetime | None, datetime] | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, default=lambda at: at.astimezone(UTC).isoformat())


def build_features(
    workspace: Workspace,
    settings: Settings,
    clock: Clock | None = None,
    on_view: OnView = lambda view, rows, seconds: None,
    *,
    is_full: bool = False,
    hours: HourRange | None = None,
) -> FeatureBuild:
    """Brings every view up to the data's end (`clock`'s now for live data), from what changed since the last build.

    `is_full` computes everything again, and so does a changed definition, data set or missing state; `hours`
    computes just those again. Each gives the same rows. Raises MissingStageError
    without a log, InputError for hours that were never built.
    """
    if not (workspace.log / "impressions").is_dir():
        raise MissingStageError("event log", workspace.log, f"make data DATASET={workspace.root.name}")
    connection = connect(settings)
    try:
        with exclusive(workspace.data, "feature_build"):
            return _build(connection, workspace, clock, on_view, is_full, hours)
    except duckdb.Error as error:
        raise FeatureStoreError(
            f"DuckDB failed on the log in {workspace.log}: {error}; the feature tables are left as they were"
        ) from error
    finally:
        connection.close()


def read_build(workspace: Workspace) -> dict[str, Any]:
    """What the last build wrote, as JSON has it. Raises MissingStageError before the first."""
    path = workspace.features / PROVENANCE
    if not path.exists():
        raise MissingStageError("feature tables", workspace.features, "python -m feature_repo build")
    try:
        fields = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is not a build record ({error}); run `python -m feature_repo build` again") from error
    return dict(fields)


def view_glob(workspace: Workspace, view: str) -> str:
    """Path pattern of the view's Parquet files."""
    return str(workspace.features / view / "day=*" / "*.parquet")


def _build(
    connection: duckdb.DuckDBPyConnection,
    workspace: Workspace,
    clock: Clock | None,
    on_view: OnView,
    is_full: bool,
    hours: HourRange | None,
) -> FeatureBuild:
    manifest = workspace.manifest()
    at = manifest.anchor_at or (clock or workspace.clock()).now()
    end = DataEnd(micros(at), manifest.anchor_at is not None)
    first_day = micros(manifest.first_event_at) // (24 * US_PER_HOUR)
    former = _continued(workspace, recipe(manifest.data_version), first_day, end)
    index = read_log_index(workspace.log, former.logs if former else {})
    plan = _plan(end, former, index, is_full, hours)
    record = _record(
        former, plan, index, BuildRecord(recipe(manifest.data_version), 0, first_day, end.at, end.last_hour)
    )
    if not plan.spans:
        write_record(workspace, record)
        return _unchanged(workspace)
    run = Run(connection, workspace, Templates.of(end.at, record.has_observed_kinds), record, plan)
    run.compute(pipelines(record.has_observed_kinds), on_view)
    run.commit()
    build = FeatureBuild(record.generation, at, _views(workspace, connection, run, plan), _hours(plan))
    write_record(workspace, record)
    write_atomically(workspace.features / PROVENANCE, build.to_json())
    return build


def _continued(workspace: Workspace, recipe: str, first_day: int, end: DataEnd) -> BuildRecord | None:
    """What the last build left, if the next can continue from it."""
    found = read_record(workspace)
    if found is None or (found.recipe, found.first_day) != (recipe, first_day) or found.data_end > end.at:
        return None
    places = [workspace.features / PROVENANCE, *(workspace.features / view for view in VIEWS)]
    return found if all(place.exists() for place in places) else None


def _plan(end: DataEnd, former: BuildRecord | None, index: LogIndex, is_full: bool, hours: HourRange | None) -> Plan:
    if hours is not None and former is None:
        raise InputError(
            "there are no tables of this data and code in which hours could be built anew; build all first"
        )
    if is_full or former is None:
        return plan_whole(end, former, index)
    if hours is None:
        return plan_next(end, former, index)
    first = -(-micros(hours.since) // US_PER_HOUR)
    last = end.last_hour if hours.until is None else micros(hours.until) // US_PER_HOUR
    return plan_next(end, former, index, first) if last == end.last_hour >= first else plan_range(end, first, last)


def _record(former: BuildRecord | None, plan: Plan, index: LogIndex, fresh: BuildRecord) -> BuildRecord:
    """What the build will leave, before its rows and its state are known."""
    if former is not None and plan.is_closed:
        return former
    record = replace(fresh, logs=index, has_observed_kinds=has_observed_kinds(index))
    if former is None:
        return record
    record.revision = former.revision + plan.is_revision
    if not plan.is_whole:
        record.rows = former.rows
        record.checkpoints = dict(former.checkpoints)
        if record.has_observed_kinds != former.has_observed_kinds:  # other columns are counted
            record.checkpoints["hourly"] = []
    return record


def _views(workspace: Workspace, connection: duckdb.DuckDBPyConnection, run: Run, plan: Plan) -> tuple[ViewBuild, ...]:
    former = {} if plan.is_whole else {v["view"]: v for v in read_build(workspace)["views"]}
    views = []
    for name in VIEWS:
        staged = run.staged.get(name)
        before = [_instant(former[name][f]) if former else None for f in ("last_event_at", "last_known_at")]
        if staged is None:
            views.append(ViewBuild(name, former[name]["rows"], 0.0, before[0], before[1]))
            continue
        if plan.is_revision or plan.is_closed:
            files = quoted(Path(view_glob(workspace, name)))
            latest = connection.execute(f"SELECT max(event_at), max(known_at) FROM read_parquet('{files}')").fetchall()[
                0
            ]
        else:
            pairs = zip((staged.last_event, staged.last_known), before, strict=True)
            latest = tuple(max((i for i in pair if i is not None), default=None) for pair in pairs)
        views.append(ViewBuild(name, sum(staged.num_rows.values()), run.seconds[name], *latest))
    return tuple(views)


def _hours(plan: Plan) -> tuple[datetime | None, datetime]:
    first = min(span.first for span in plan.spans.values())
    last = max(span.last for span in plan.spans.values())
    return None if first == FIRST_HOUR else instant(first), instant(last)


def _unchanged(workspace: Workspace) -> FeatureBuild:
    fields = read_build(workspace)
    views = [
        {**v, "last_event_at": _instant(v["last_event_at"]), "last_known_at": _instant(v["last_known_at"])}
        for v in fields["views"]
    ]
    data_end = datetime.fromisoformat(fields["data_end"])
    return FeatureBuild(fields["generation"], data_end, tuple(ViewBuild(**v) for v in views))


def _instant(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
