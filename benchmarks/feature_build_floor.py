"""The floor of a feature build: the same eight tables by plain DuckDB SQL, with nothing kept for later.

Counts are window functions over hourly tiles, RANGE BETWEEN w - 1 PRECEDING, in key shards that fit in memory; events
count in the hour they happened, late or not. The other views are the platform's own queries over the whole log at once.
"""

import math
from pathlib import Path

import duckdb

from core.schema import HEADS
from core.settings import Settings
from core.workspace import Workspace
from events.read import connect, register_log
from feature_repo.building.hours import FIRST_HOUR, US_PER_HOUR, Span, micros
from feature_repo.building.pipelines import pipelines
from feature_repo.building.sql import Templates
from feature_repo.catalog import JOIN_KEYS, PRIOR_IMPRESSIONS, PRIOR_RATES, VIEWS, WINDOWS

ROWS_PER_SHARD = 4_000_000


def build_floor(workspace: Workspace, settings: Settings, place: Path) -> None:
    """Writes every view below `place`, partitioned by day."""
    end = micros(workspace.manifest().last_event_at)
    connection = connect(settings)
    register_log(connection, workspace.log)
    span = Span(FIRST_HOUR, end // US_PER_HOUR, end // US_PER_HOUR, None)
    render = Templates.of(end, has_observed_kinds=False).for_span(span)
    connection.execute(render("events"))
    for pipeline in pipelines(has_observed_kinds=False):
        if pipeline.views.keys() & {f"{entity}_activity" for entity in JOIN_KEYS}:
            continue
        for table in pipeline.tables:
            connection.execute(f"CREATE TEMP TABLE stored_{table.name} ({table.columns})")
        for template in (*pipeline.prepare, *pipeline.step):
            connection.execute(render(template, **pipeline.parameters))
        for view, template in pipeline.views.items():
            _write(connection, view, render(template, **pipeline.parameters), place, 0)
    for entity in JOIN_KEYS:
        _write_activity(connection, entity, span.last, place)


def _write_activity(connection: duckdb.DuckDBPyConnection, entity: str, last_hour: int, place: Path) -> None:
    key = JOIN_KEYS[entity]
    tallies = ["impressions", *(f"did_{kind}" for kind in HEADS)]
    done = ", ".join(f"count(*) FILTER (kind = '{kind}') AS did_{kind}" for kind in HEADS)
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE floor_tiles AS
        SELECT key, hour, {", ".join(f"coalesce(sum({t}), 0)::FLOAT AS {t}" for t in tallies)}
        FROM (
            SELECT {key} AS key, end_hour AS hour, count(*) AS impressions FROM impression_hours GROUP BY ALL
            UNION ALL BY NAME SELECT {key} AS key, end_hour AS hour, {done} FROM engagement_hours GROUP BY ALL
        ) GROUP BY ALL"""
    )
    num_tiles = connection.execute("SELECT count(*) FROM floor_tiles").fetchall()[0][0]
    num_shards = math.ceil(3 * num_tiles / ROWS_PER_SHARD)
    for shard in range(num_shards):
        tiles = f"(SELECT * FROM floor_tiles WHERE key % {num_shards} = {shard})"
        falls = "".join(
            f" UNION SELECT key, hour + {w} FROM {tiles} WHERE hour + {w} <= {last_hour}" for w in WINDOWS.values() if w
        )
        sums, frames = [], []
        for window, hours in WINDOWS.items():
            start = "UNBOUNDED" if hours is None else str(hours - 1)
            frames.append(
                f"w_{window} AS (PARTITION BY key ORDER BY hour RANGE BETWEEN {start} PRECEDING AND CURRENT ROW)"
            )
            sums += [f"coalesce(sum({t}) OVER w_{window}, 0) AS {t}_{window}" for t in tallies]
        counted = (
            f"SELECT key, hour, {', '.join(sums)} FROM (SELECT key, hour FROM {tiles}{falls}) "
            f"LEFT JOIN {tiles} USING (key, hour) WINDOW {', '.join(frames)}"
        )
        _write(connection, f"{entity}_activity", f"SELECT {_columns(key)} FROM ({counted})", place, shard)


def _columns(key: str) -> str:
    columns = [f"key AS {key}"]
    for window in WINDOWS:
        columns.append(f"impressions_{window}::FLOAT AS num_impressions_{window}")
        for kind in HEADS:
            prior = PRIOR_RATES[kind] * PRIOR_IMPRESSIONS
            rate = f"least(1e0, (did_{kind}_{window} + {prior}e0) / (impressions_{window} + {PRIOR_IMPRESSIONS}e0))"
            columns += [f"did_{kind}_{window}::FLOAT AS num_{kind}_{window}", f"{rate}::FLOAT AS rate_{kind}_{window}"]
    at = "to_timestamp(hour * 3600)"
    return ", ".join([*columns, f"{at} AS event_at", f"{at} + INTERVAL 300 SECOND AS known_at"])


def _write(connection: duckdb.DuckDBPyConnection, view: str, query: str, place: Path, part: int) -> None:
    folder = place / view
    folder.mkdir(parents=True, exist_ok=True)
    columns = ", ".join(VIEWS[view].columns)
    connection.execute(
        f"COPY (SELECT {columns}, strftime(known_at, '%Y-%m-%d') AS day FROM ({query})) TO '{folder}' (FORMAT parquet, "
        f"COMPRESSION zstd, PARTITION_BY (day), FILENAME_PATTERN 'part_{part}_{{i}}', OVERWRITE_OR_IGNORE)"
    )
