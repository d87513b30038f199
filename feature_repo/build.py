"""Computes every stored feature view from the log with DuckDB and writes it as Parquet.

    log/ ──▶ hours.sql (events by hour, follow spans, engaged posts) ──▶ <view>.sql ──▶ data/features/<view>/day=…/

A view is written beside its place and renamed in, so a reader sees the old table or the new one.
"""

import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import jinja2

from core.clock import Clock
from core.errors import FeatureStoreError, InputError, MissingStageError
from core.files import content_hash, sync_folder, write_atomically
from core.schema import CONTENT_DIM, HEADS, MEDIA_TYPES
from core.settings import Settings
from core.workspace import Workspace
from events.read import connect, register_log
from feature_repo import catalog
from feature_repo.catalog import VIEWS, View

SQL_FOLDER = Path(__file__).with_name("sql")
PROVENANCE = "build.json"
MICROSECONDS_PER_HOUR = 3_600_000_000
TILES_PER_SHARD = 250_000


@dataclass(frozen=True)
class ViewBuild:
    """One written view: rows, seconds it took, and the instants up to which it knows."""

    view: str
    rows: int
    seconds: float
    last_event_at: datetime | None
    last_known_at: datetime | None


@dataclass(frozen=True)
class FeatureBuild:
    """What a build wrote. `generation` changes when values of existing rows may have changed."""

    generation: str
    data_end: datetime
    views: tuple[ViewBuild, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, default=lambda at: at.astimezone(UTC).isoformat())


def build_features(
    workspace: Workspace,
    settings: Settings,
    clock: Clock | None = None,
    on_view: Callable[[ViewBuild], None] = lambda _: None,
) -> FeatureBuild:
    """Writes every view from the whole log up to the data's end (`clock`'s now for live data).

    Calls `on_view` after each. Raises MissingStageError without a log.
    """
    if not (workspace.log / "impressions").is_dir():
        raise MissingStageError("event log", workspace.log, f"make data DATASET={workspace.root.name}")
    manifest = workspace.manifest()
    data_end = manifest.anchor_at or (clock or workspace.clock()).now()
    connection = connect(settings)
    try:
        register_log(connection, workspace.log)
        templates = _templates(connection, data_end)
        connection.execute(templates("hours"))
        built = []
        for view in VIEWS.values():
            written = _write_view(connection, view, templates, workspace, manifest.first_event_at)
            on_view(written)
            built.append(written)
    except duckdb.Error as error:
        raise FeatureStoreError(
            f"DuckDB failed on the log in {workspace.log}: {error}; the feature tables are left as they were"
        ) from error
    finally:
        connection.close()
    build = FeatureBuild(_generation(manifest.data_version), data_end, tuple(built))
    write_atomically(workspace.features / PROVENANCE, build.to_json())
    return build


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


def sql_parameters(data_end: datetime, has_observed_kinds: bool) -> dict[str, object]:
    """Everything the SQL templates refer to."""
    end_micros = int(data_end.timestamp() * 1_000_000)
    return {
        "heads": list(HEADS),
        "kinds": list(HEADS),
        "windows": [{"name": name, "hours": hours} for name, hours in catalog.WINDOWS.items()],
        "tallies": [
            "impressions",
            *([f"seen_{k}" for k in HEADS] if has_observed_kinds else []),
            *(f"did_{k}" for k in HEADS),
        ],
        "has_observed_kinds": has_observed_kinds,
        "prior_rates": catalog.PRIOR_RATES,
        "prior_impressions": catalog.PRIOR_IMPRESSIONS,
        "kind_weights": catalog.KIND_WEIGHTS,
        "media_types": list(MEDIA_TYPES),
        "content_dim": CONTENT_DIM,
        "history_length": catalog.HISTORY_LENGTH,
        "affinity_length": catalog.AFFINITY_LENGTH,
        "affinity_events": catalog.AFFINITY_EVENTS,
        "half_life_hours": catalog.AFFINITY_HALF_LIFE_HOURS,
        "followed_length": catalog.FOLLOWED_LENGTH,
        "lag_seconds": int(catalog.PUBLISH_LAG.total_seconds()),
        "last_hour": -(-end_micros // MICROSECONDS_PER_HOUR),
        "data_end": f"make_timestamptz({end_micros})",
    }


def _templates(connection: duckdb.DuckDBPyConnection, data_end: datetime) -> Callable[..., str]:
    has_observed = connection.execute("SELECT count(observed_kinds) > 0 FROM impressions").fetchall()[0][0]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(SQL_FOLDER),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701
    )
    functions = environment.get_template("functions.sql").make_module()
    parameters = sql_parameters(data_end, bool(has_observed))
    macros = {name: getattr(functions, name) for name in ("end_hour", "visible_hour")}

    def render(name: str, **own: object) -> str:
        return environment.get_template(f"{name}.sql").render(**parameters, **macros, **own)

    return render


def _queries(connection: duckdb.DuckDBPyConnection, view: View, templates: Callable[..., str]) -> list[str]:
    """The SELECTs whose rows together are the view; several where one would not fit in memory."""
    if not view.name.endswith("_activity"):
        return [templates(view.name)]
    connection.execute(templates("tiles", key=view.join_key))
    tiles = connection.execute("SELECT count(*) FROM tiles").fetchall()[0][0]
    num_shards = max(1, math.ceil(tiles / TILES_PER_SHARD))
    return [
        templates("activity", view=view.name, key=view.join_key, num_shards=num_shards, shard=shard)
        for shard in range(num_shards)
    ]


def _write_view(
    connection: duckdb.DuckDBPyConnection,
    view: View,
    templates: Callable[..., str],
    workspace: Workspace,
    first_event_at: datetime,
) -> ViewBuild:
    started = time.monotonic()
    place = workspace.features / view.name
    fresh = workspace.features / f".{view.name}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    columns = ", ".join(view.columns)
    first_day = first_event_at.astimezone(UTC).date().isoformat()
    # What was known before the log begins shares its first day, or old posts would make a folder per day of their past.
    day = f"strftime(greatest(known_at, TIMESTAMPTZ '{first_day} 00:00:00+00'), '%Y-%m-%d')"
    queries = _queries(connection, view, templates)
    for number, query in enumerate(queries):
        connection.execute(
            f"COPY (SELECT {columns}, {day} AS day FROM ({query})) TO '{_quoted(fresh)}' (FORMAT parquet, "
            f"COMPRESSION zstd, PARTITION_BY (day), FILENAME_PATTERN 'part_{number}_{{i}}', OVERWRITE_OR_IGNORE)"
        )
    if not any(fresh.iterdir()):  # a typed table without rows, so that readers need no special case
        (fresh / f"day={first_day}").mkdir()
        connection.execute(
            f"COPY (SELECT {columns} FROM ({queries[0]}) LIMIT 0) "
            f"TO '{_quoted(fresh)}/day={first_day}/part_0_0.parquet' (FORMAT parquet)"
        )
    summary = connection.execute(
        f"SELECT count(*), max(event_at), max(known_at) FROM read_parquet('{_quoted(fresh)}/*/*.parquet')"
    ).fetchall()[0]
    _swap(fresh, place)
    return ViewBuild(view.name, int(summary[0]), round(time.monotonic() - started, 2), summary[1], summary[2])


def _swap(fresh: Path, place: Path) -> None:
    old = place.with_name(f".{place.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    fresh.rename(place)
    sync_folder(place.parent)
    shutil.rmtree(old, ignore_errors=True)


def _generation(data_version: str) -> str:
    """Changes with the data set and with the code that computes features, not with appended events."""
    sql = [p.read_text() for p in sorted(SQL_FOLDER.glob("*.sql"))]
    return content_hash([data_version, repr(VIEWS), repr(catalog.PRIOR_RATES), repr(catalog.KIND_WEIGHTS), *sql])


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
