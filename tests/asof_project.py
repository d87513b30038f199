"""A small Feast project that is not Vitrine: one view by key, one without entities, one on demand."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.data_format import ParquetFormat
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float32, Float64, Int64, String

from feature_repo.stores.asof import OFFLINE_STORE

START = datetime(2026, 1, 1, tzinfo=UTC)
INSTANT = pa.timestamp("us", tz="UTC")
REFS = ["scores:score", "scores:label", "site:load", "ratio:share"]


def write_history(folder: Path, num_rows: int = 400, num_keys: int = 20) -> None:
    """Two views' files: `scores` in a folder of three files, `site` without a key in one file."""
    rng = np.random.default_rng(3)
    at = [START + timedelta(hours=int(h)) for h in rng.integers(0, 48, num_rows)]
    table = pa.table(
        {
            "item_id": rng.integers(0, num_keys, num_rows),
            "score": pa.array(rng.random(num_rows), pa.float32()),
            "label": [f"label {i}" for i in range(num_rows)],
            "event_at": pa.array(at, INSTANT),
            "known_at": pa.array(
                [a + timedelta(minutes=int(m)) for a, m in zip(at, rng.integers(0, 90, num_rows), strict=True)], INSTANT
            ),
        }
    )
    (folder / "scores" / "day=1").mkdir(parents=True)
    for number, start in enumerate(range(0, num_rows, num_rows // 3 + 1)):
        path = folder / "scores" / ("day=1" if number else "") / f"{number}.parquet"
        pq.write_table(table.slice(start, num_rows // 3 + 1), path)
    hours = [START + timedelta(hours=h) for h in range(0, 48, 5)]
    pq.write_table(
        pa.table({"load": np.arange(len(hours), dtype=float), "at": pa.array(hours, INSTANT)}), folder / "site.parquet"
    )


def open_store(folder: Path, site_fields: Sequence[str] = ("load",), **options: Any) -> FeatureStore:
    item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.INT64)
    scores = FeatureView(
        name="scores",
        entities=[item],
        ttl=timedelta(0),
        schema=[
            Field(name="item_id", dtype=Int64),
            Field(name="score", dtype=Float32),
            Field(name="label", dtype=String),
        ],
        source=FileSource(
            name="scores_table",
            path="scores",
            file_format=ParquetFormat(),
            timestamp_field="event_at",
            created_timestamp_column="known_at",
        ),
    )
    site = FeatureView(
        name="site",
        entities=[],
        ttl=timedelta(0),
        schema=[Field(name=name, dtype=Float64) for name in site_fields],
        source=FileSource(name="site_table", path="site.parquet", timestamp_field="at"),
    )

    @on_demand_feature_view(
        sources=[scores[["score"]]],
        input_schema=[Field(name="total", dtype=Float64)],
        schema=[Field(name="share", dtype=Float64)],
        mode="pandas",
        name="ratio",
    )
    def ratio(inputs: pd.DataFrame) -> pd.DataFrame:
        import pandas

        return pandas.DataFrame({"share": inputs["score"].astype("float64") / inputs["total"]})

    config = RepoConfig(
        project="other",
        registry=str(folder / "registry.db"),
        provider="local",
        offline_store={"type": OFFLINE_STORE, **options},
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        repo_path=folder,
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    store.apply([item, scores, site, ratio])
    return store


def entity_rows(num_rows: int = 120) -> pd.DataFrame:
    rng = np.random.default_rng(4)
    at = [START + timedelta(minutes=int(m)) for m in rng.integers(-60, 3000, num_rows)]
    return pd.DataFrame(
        {"item_id": rng.integers(0, 22, num_rows), "event_timestamp": at, "total": 2.0, "row": range(num_rows)}
    )
