"""The point-in-time join: ours, Feast's own DuckDB store and a loop in Python agree; a planted leak is not joined."""

import copy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.data_format import ParquetFormat
from feast.types import Array, Float32, Int64, String

START = datetime(2026, 1, 1, tzinfo=UTC)
OURS = "feature_repo.stores.asof.AsofOfflineStore"
INSTANT = pa.timestamp("us", tz="UTC")
# Whole days: the stock store cannot express a time to live that mixes days and hours.
TTLS = {"short": timedelta(days=1), "endless": timedelta(0)}
REFS = [f"{view}:{feature}" for view in TTLS for feature in ("number", "word", "items")]

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*:DeprecationWarning",
    "ignore:.*:FutureWarning",  # from inside ibis and pandas under Feast's own store
)


def feature_rows(rng: np.random.Generator, num_rows: int) -> list[dict[str, Any]]:
    """Rows on few whole hours, so that equal event and known times abound; some late, some values null."""
    found = []
    for number in range(num_rows):
        event_at = START + timedelta(hours=int(rng.integers(0, 80)))
        delay = int(rng.choice([0, 0, 1, 5, 40]))
        found.append(
            {
                "key": int(rng.integers(0, 6)),
                "num": None if rng.random() < 0.1 else float(number),
                "word": None if rng.random() < 0.1 else f"w{number}",
                "items": None if rng.random() < 0.1 else [number, number + 1],
                "event_at": event_at,
                "known_at": event_at + timedelta(hours=delay),
            }
        )
    # Rows that tie in key and both times have no order; keep one of each.
    return list({(r["key"], r["event_at"], r["known_at"]): r for r in found}.values())


def entity_rows(rng: np.random.Generator, num_rows: int) -> pd.DataFrame:
    at = [START + timedelta(hours=int(h), minutes=int(rng.choice([0, 30]))) for h in rng.integers(-5, 140, num_rows)]
    frame = pd.DataFrame(
        {"key": rng.integers(0, 8, num_rows), "event_timestamp": pd.to_datetime(at, utc=True).as_unit("us")}
    )
    return frame.assign(number=range(num_rows)).rename(columns={"number": "row"})


def oracle(rows: list[dict[str, Any]], key: int, at: datetime, ttl: timedelta) -> dict[str, Any]:
    usable = [r for r in rows if r["key"] == key and r["event_at"] <= at and r["known_at"] <= at]
    if ttl:
        usable = [r for r in usable if r["event_at"] >= at - ttl]
    if not usable:
        return {"num": None, "word": None, "items": None}
    return max(usable, key=lambda r: (r["event_at"], r["known_at"]))


def open_store(folder: Path, tables: dict[str, list[dict[str, Any]]], offline: str, **options: Any) -> FeatureStore:
    schema = pa.schema(
        [
            ("key", pa.int64()),
            ("num", pa.float32()),
            ("word", pa.string()),
            ("items", pa.list_(pa.int64())),
            ("event_at", INSTANT),
            ("known_at", INSTANT),
        ]
    )
    thing = Entity(name="thing", join_keys=["key"], value_type=ValueType.INT64)
    views = []
    for name, rows in tables.items():
        path = folder / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
        source = FileSource(
            name=f"{name}_source",
            path=str(path),
            file_format=ParquetFormat(),
            timestamp_field="event_at",
            created_timestamp_column="known_at",
            field_mapping={"num": "number"},
        )
        fields = [Field(name="number", dtype=Float32), Field(name="word", dtype=String)]
        fields += [Field(name="items", dtype=Array(Int64)), Field(name="key", dtype=Int64)]
        views.append(FeatureView(name=name, entities=[thing], ttl=TTLS[name], schema=fields, source=source))
    config = RepoConfig(
        project="test",
        registry=str(folder / f"{offline.rsplit('.', 1)[-1]}.db"),
        provider="local",
        offline_store={"type": offline},
        online_store=None,
        repo_path=folder,
        entity_key_serialization_version=3,
        **options,
    )
    store = FeatureStore(config=config)
    store.apply([thing, *views])
    return store


def joined(store: FeatureStore, entities: pd.DataFrame, **options: Any) -> list[dict[str, Any]]:
    frame = store.get_historical_features(
        entity_df=copy.deepcopy(entities), features=REFS, full_feature_names=True, **options
    ).to_arrow()
    return frame.sort_by("row").to_pylist()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_join_equals_a_loop_over_rows_and_feasts_own_store(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tables = {name: feature_rows(rng, 120) for name in TTLS}
    entities = entity_rows(rng, 150)
    ours = joined(open_store(tmp_path, tables, OURS), entities)
    stock = joined(open_store(tmp_path, tables, "duckdb"), entities, filter_by_created_timestamp=True)
    assert len(ours) == len(stock) == len(entities)
    num_found = 0
    for row, theirs in zip(ours, stock, strict=True):
        for name, ttl in TTLS.items():
            wanted = oracle(tables[name], row["key"], row["event_timestamp"], ttl)
            for feature, column in (("number", "num"), ("word", "word"), ("items", "items")):
                got = row[f"{name}__{feature}"]
                assert got == wanted[column]
                their = theirs[f"{name}__{feature}"]
                assert got == (None if isinstance(their, float) and np.isnan(their) else their)
                num_found += got is not None
    assert num_found > 150


def test_a_value_written_after_the_instant_is_not_joined_even_when_it_is_about_the_time_before(tmp_path: Path) -> None:
    at = START + timedelta(hours=10)
    honest = {"key": 1, "num": 1.0, "word": "honest", "items": [1], "event_at": at - timedelta(hours=5)}
    honest["known_at"] = honest["event_at"]
    leak = {"key": 1, "num": 2.0, "word": "leak", "items": [2], "event_at": at - timedelta(hours=1)}
    leak["known_at"] = at + timedelta(microseconds=1)
    store = open_store(tmp_path, {name: [honest, leak] for name in TTLS}, OURS)
    entities = pd.DataFrame({"key": [1, 1], "event_timestamp": [at, at + timedelta(microseconds=1)], "row": [0, 1]})
    # Without asking: the cutoff is on whatever the caller says.
    rows = joined(store, entities, filter_by_created_timestamp=False)
    assert [r["endless__word"] for r in rows] == ["honest", "leak"]


def test_a_correction_of_an_older_fact_does_not_replace_a_newer_fact(tmp_path: Path) -> None:
    new = {"key": 1, "num": 1.0, "word": "new", "items": [1], "event_at": START + timedelta(hours=3)}
    new["known_at"] = new["event_at"]
    late = {"key": 1, "num": 2.0, "word": "late", "items": [2], "event_at": START + timedelta(hours=1)}
    late["known_at"] = START + timedelta(hours=6)
    store = open_store(tmp_path, {name: [new, late] for name in TTLS}, OURS)
    entities = pd.DataFrame({"key": [1], "event_timestamp": [START + timedelta(hours=7)], "row": [0]})
    assert joined(store, entities)[0]["endless__word"] == "new"


def test_entity_rows_may_be_sql_or_arrow_and_keep_their_order_and_columns(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    store = open_store(tmp_path, {name: feature_rows(rng, 60) for name in TTLS}, OURS)
    entities = entity_rows(rng, 40)
    pq.write_table(pa.Table.from_pandas(entities, preserve_index=False), tmp_path / "entities.parquet")
    query = f"SELECT * FROM read_parquet('{tmp_path / 'entities.parquet'}')"
    by_frame = store.get_historical_features(entity_df=entities, features=REFS[:3]).to_arrow()
    by_query = store.get_historical_features(entity_df=query, features=REFS[:3]).to_arrow()
    by_arrow = store.get_historical_features(entity_df=pa.Table.from_pandas(entities), features=REFS[:3]).to_arrow()
    assert by_frame.column("row").to_pylist() == list(range(40))
    assert by_query.column_names == ["key", "event_timestamp", "row", "number", "word", "items"]
    assert by_query.sort_by("row").to_pylist() == by_arrow.sort_by("row").to_pylist()


def test_materialisation_reads_the_latest_row_known_by_the_end_and_what_became_known_since(tmp_path: Path) -> None:
    def row(word: str, event: int, known: int) -> dict[str, Any]:
        return {
            "key": 1,
            "num": 0.0,
            "word": word,
            "items": [],
            "event_at": START + timedelta(hours=event),
            "known_at": START + timedelta(hours=known),
        }

    rows = [row("old", 1, 1), row("shown", 5, 6), row("unknown yet", 6, 12), row("late", 2, 20)]
    store = open_store(tmp_path, dict.fromkeys(TTLS, rows), OURS)
    view = store.get_feature_view("endless")

    def latest(start: int, end: int) -> list[str]:
        job = store._get_provider().offline_store.pull_latest_from_table_or_query(
            store.config,
            view.batch_source,
            ["key"],
            ["word"],
            "event_at",
            "known_at",
            START + timedelta(hours=start),
            START + timedelta(hours=end),
        )
        return job.to_arrow().column("word").to_pylist()

    assert latest(0, 11) == ["shown"]
    assert latest(11, 13) == ["unknown yet"]
    assert latest(13, 30) == ["late"]
    assert latest(40, 50) == []
