"""Impressions and feature history for the point-in-time benchmark, and a Feast repo over them.

Thirty days of hourly rows over four views: skewed keys, five minutes of publish lag, two rows in a hundred late
by 1 to 29 hours, fifteen float features a row. Two views are 40 % of the history each, two 10 % each.
"""

from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.data_format import ParquetFormat
from feast.types import Float32, Int64

INSTANT = pa.timestamp("us", tz="UTC")
START_MICROS = 1_767_225_600_000_000
HOUR_MICROS = 3_600_000_000
NUM_HOURS = 720
NUM_FEATURES = 15
ROW_GROUP_ROWS = 122_880
"""As DuckDB writes, and so as the floor's tables have it: threads share the reading by row groups."""
VIEWS = {
    "user_activity": ("user_id", 0.4),
    "user_profile": ("user_id", 0.1),
    "post_activity": ("post_id", 0.4),
    "creator_activity": ("creator_id", 0.1),
}
"""Join key and share of the history rows by view."""
NUM_KEYS = {"user_id": 50_000, "post_id": 60_000, "creator_id": 5_000}


def write_data(folder: Path, num_impressions: int, num_history: int) -> None:
    """impressions.parquet, and by view VIEW.parquet and prepared/VIEW.parquet, which the floor reads."""
    rng = np.random.default_rng(7)
    (folder / "prepared").mkdir(parents=True)
    for view, (key, share) in VIEWS.items():
        table = _history(rng, key, int(num_history * share))
        pq.write_table(table, folder / f"{view}.parquet", compression="zstd", row_group_size=ROW_GROUP_ROWS)
        _prepare(folder, view, key)
    pq.write_table(_impressions(rng, num_impressions), folder / "impressions.parquet")


def _history(rng: np.random.Generator, key: str, num_rows: int) -> pa.Table:
    event = START_MICROS + np.sort(rng.integers(0, NUM_HOURS, num_rows)) * HOUR_MICROS
    late = np.where(rng.random(num_rows) < 0.02, rng.integers(1, 30, num_rows), 0)
    known = event + 300_000_000 + late * HOUR_MICROS
    columns = {key: _keys(rng, key, num_rows), "event_at": _instants(event), "known_at": _instants(known)}
    for number in range(NUM_FEATURES):
        columns[f"f{number}"] = rng.random(num_rows, dtype=np.float32)
    return pa.table(columns)


def _impressions(rng: np.random.Generator, num_rows: int) -> pa.Table:
    posts = _keys(rng, "post_id", num_rows)
    at = START_MICROS + np.sort(rng.integers(0, NUM_HOURS * HOUR_MICROS, num_rows))
    return pa.table(
        {
            "user_id": _keys(rng, "user_id", num_rows),
            "post_id": posts,
            "creator_id": posts // 12,
            "event_timestamp": _instants(at),
            "row": np.arange(num_rows),
        }
    )


def _keys(rng: np.random.Generator, key: str, num_rows: int) -> Any:
    return (NUM_KEYS[key] * rng.random(num_rows) ** 2).astype(np.int64)


def _instants(micros: Any) -> pa.Array:
    return pa.array(micros).cast(INSTANT)


def _prepare(folder: Path, view: str, key: str) -> None:
    """The view's rows that are ever the latest of their key, with the instant from which they are."""
    with duckdb.connect() as connection:
        connection.execute(
            f"""COPY (SELECT *, greatest(event_at, known_at) AS available_at FROM '{folder / view}.parquet'
            QUALIFY event_at >= max(event_at) OVER (PARTITION BY {key} ORDER BY greatest(event_at, known_at), event_at)
            ORDER BY available_at) TO '{folder / "prepared" / view}.parquet' (COMPRESSION zstd)"""
        )


def bare_asof_sql(folder: Path) -> str:
    """One SELECT of `impressions` with every view's features by ASOF joins on the prepared tables."""
    features = ", ".join(f"{v}.f{n} AS {v}__f{n}" for v in VIEWS for n in range(NUM_FEATURES))
    joins = " ".join(
        f"ASOF LEFT JOIN '{folder / 'prepared' / view}.parquet' AS {view} "
        f"ON impressions.{key} = {view}.{key} AND impressions.event_timestamp >= {view}.available_at"
        for view, (key, _) in VIEWS.items()
    )
    return f"SELECT impressions.*, {features} FROM impressions {joins}"


def feature_refs() -> list[str]:
    return [f"{view}:f{number}" for view in VIEWS for number in range(NUM_FEATURES)]


def open_store(folder: Path, offline: dict[str, Any]) -> FeatureStore:
    """A Feast repo over the tables in `folder` with this offline store."""
    entities = {
        key: Entity(name=key.removesuffix("_id"), join_keys=[key], value_type=ValueType.INT64) for key in NUM_KEYS
    }
    views = [_view(folder, name, entities[key]) for name, (key, _) in VIEWS.items()]
    config = RepoConfig(
        project="benchmark",
        registry=str(folder / f"{offline['type'].rsplit('.')[-1]}.db"),
        provider="local",
        offline_store=offline,
        online_store=None,
        repo_path=folder,
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    store.apply([*entities.values(), *views])
    return store


def _view(folder: Path, name: str, entity: Entity) -> FeatureView:
    source = FileSource(
        name=f"{name}_table",
        path=str(folder / f"{name}.parquet"),
        file_format=ParquetFormat(),
        timestamp_field="event_at",
        created_timestamp_column="known_at",
    )
    fields = [Field(name=f"f{number}", dtype=Float32) for number in range(NUM_FEATURES)]
    fields.append(Field(name=entity.join_key, dtype=Int64))
    return FeatureView(name=name, entities=[entity], ttl=timedelta(days=30), schema=fields, source=source)
