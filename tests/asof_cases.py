"""Generated cases of the point-in-time join, and the answers by a loop over rows that shares no code with it.

A case has its own keys, so that many cases fit into one table and one call and still do not meet.
"""

from dataclasses import dataclass
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
from feast.types import Array, Float64, Int64, String

OURS = "feature_repo.stores.asof.AsofOfflineStore"
START = datetime(2026, 1, 1, tzinfo=UTC)
UTC_MICROS = pa.timestamp("us", tz="UTC")
VALUES = ("num", "text", "items")
NUM_KEYS = 3
"""Keys of a case that have rows; a case has one more that has none."""


@dataclass(frozen=True)
class View:
    """One view of every case: its keys, time to live, whether it has a known time, and how its files look."""

    keys: tuple[str, ...]
    ttl: timedelta
    has_known: bool = True
    instants: pa.DataType = UTC_MICROS
    stored: tuple[tuple[str, str], ...] = ()
    """Name in the file by name in the view, where they differ."""


VIEWS = {
    "mapped": View(
        ("key",),
        timedelta(days=1),
        stored=(("key", "k"), ("num", "n"), ("event_at", "happened"), ("known_at", "written")),
    ),
    "endless": View(("key",), timedelta(0), has_known=False, instants=pa.timestamp("us")),
    "two_keys": View(("key", "word"), timedelta(hours=18), instants=pa.timestamp("us", tz="Asia/Kolkata")),
    "odd_ttl": View(("key",), timedelta(days=1, hours=5, microseconds=1)),
    "everyone": View((), timedelta(hours=20)),
}
PROJECTIONS = {
    "mapped": ("mapped", {}),
    "endless": ("endless", {}),
    "two_keys": ("two_keys", {}),
    "viewer": ("mapped", {"key": "viewer_key"}),
    "pair": ("two_keys", {"key": "viewer_key", "word": "viewer_word"}),
    "odd_ttl": ("odd_ttl", {}),
    "everyone": ("everyone", {}),
    "half": ("two_keys", {"key": "viewer_key"}),
}
"""View and join-key map by name in the result."""

NOT_FOR_STOCK = {
    "odd_ttl": "ibis gives DuckDB an interval of days only or hours only, so a TTL of both fails",
    "everyone": "the stock store looks for Feast's placeholder key in files that do not have it, and fails",
    "half": "the stock store takes a map of one key as the whole key and joins on that one alone",
}
"""Where the stock store is wrong: our answer is held against the loop only."""


@dataclass(frozen=True)
class Case:
    """Rows by view, and entity rows."""

    tables: dict[str, list[dict[str, Any]]]
    entities: list[dict[str, Any]]


def generate(rng: np.random.Generator, number: int) -> Case:
    """Case `number`: few keys on few instants, so that ties, late rows, corrections, nulls and gaps abound."""
    tables = {name: _feature_rows(rng, number, view) for name, view in VIEWS.items()}
    return Case(tables, [_entity_row(rng, number) for _ in range(int(rng.integers(1, 8)))])


def _feature_rows(rng: np.random.Generator, number: int, view: View) -> list[dict[str, Any]]:
    if not view.keys and number % 10:
        return []  # rows for everyone are for every other case too
    found = {}
    for _ in range(int(rng.choice([0, 1, 4, 14]))):
        event_at = START + timedelta(hours=int(rng.integers(0, 40)))
        delay = int(rng.choice([0, 0, 0, 1, 5, 30, -2]))
        row = {
            "key": None if rng.random() < 0.05 else number * (NUM_KEYS + 1) + int(rng.integers(0, NUM_KEYS)),
            "word": None if rng.random() < 0.05 else str(rng.choice(["a", "b"])),
            "num": None if rng.random() < 0.15 else float(rng.integers(0, 1000)),
            "text": None if rng.random() < 0.15 else f"t{rng.integers(0, 1000)}",
            "items": None if rng.random() < 0.15 else rng.integers(0, 9, int(rng.integers(0, 4))).tolist(),
            "event_at": None if rng.random() < 0.02 else event_at,
            "known_at": None if rng.random() < 0.02 else event_at + timedelta(hours=delay),
        }
        # Rows that tie in key and both times have no order for the stock store; keep one of each.
        found[(*(row[k] for k in view.keys), row["event_at"], row["known_at"] if view.has_known else None)] = row
    rows = list(found.values())
    return [rows[i] for i in rng.permutation(len(rows))]


def _entity_row(rng: np.random.Generator, number: int) -> dict[str, Any]:
    def key() -> int | None:
        return None if rng.random() < 0.1 else number * (NUM_KEYS + 1) + int(rng.integers(0, NUM_KEYS + 1))

    minutes = int(rng.integers(-2, 80)) * 60 + int(rng.choice([0, 0, 30]))
    return {
        "case": number,
        "key": key(),
        "viewer_key": key(),
        "word": None if rng.random() < 0.1 else str(rng.choice(["a", "b", "c"])),
        "viewer_word": str(rng.choice(["a", "b"])),
        "scale": float(rng.integers(1, 5)),
        "event_timestamp": START + timedelta(minutes=minutes, microseconds=int(rng.choice([0, 0, 1]))),
    }


def expected(rows_by_view: dict[str, list[dict[str, Any]]], entity: dict[str, Any]) -> dict[str, Any]:
    """The answer for one entity row, feature by full name, by looking at every row of every view."""
    answer: dict[str, Any] = {}
    for name, (view_name, key_map) in PROJECTIONS.items():
        best = None
        for row in rows_by_view[view_name]:
            if _is_usable(row, VIEWS[view_name], key_map, entity):
                rank = (row["event_at"], row["known_at"] if VIEWS[view_name].has_known else 0)
                if best is None or rank > best[0]:
                    best = (rank, row)
        for value in VALUES:
            answer[f"{name}__{value}"] = None if best is None else best[1][value]
    num = answer["mapped__num"]
    answer["scaled__scaled_num"] = None if num is None else num * entity["scale"]
    return answer


def _is_usable(row: dict[str, Any], view: View, key_map: dict[str, str], entity: dict[str, Any]) -> bool:
    at = entity["event_timestamp"]
    for key in view.keys:
        if row[key] is None or row[key] != entity[key_map.get(key, key)]:
            return False
    if row["event_at"] is None or row["event_at"] > at:
        return False
    if view.has_known and (row["known_at"] is None or row["known_at"] > at):
        return False
    return not view.ttl or row["event_at"] + view.ttl >= at


def entity_frame(cases: list[Case]) -> pd.DataFrame:
    """Entity rows of all cases, numbered by `row`; instants with zone, keys that can be null."""
    rows = [row for case in cases for row in case.entities]
    frame = pd.DataFrame(rows).assign(row=range(len(rows)))
    keys = {"key": "Int64", "viewer_key": "Int64"}
    return frame.astype(keys).assign(
        event_timestamp=pd.to_datetime(frame["event_timestamp"], utc=True).dt.as_unit("us")
    )


def write_tables(folder: Path, cases: list[Case]) -> dict[str, list[dict[str, Any]]]:
    """One file per view with the rows of all cases; those rows."""
    together = {name: [row for case in cases for row in case.tables[name]] for name in VIEWS}
    everyone = {(r["event_at"], r["known_at"]): r for r in together["everyone"]}  # cases meet here and could tie
    together["everyone"] = list(everyone.values())
    for name, view in VIEWS.items():
        types = {"key": pa.int64(), "word": pa.string(), "num": pa.float64(), "text": pa.string()}
        types |= {"items": pa.list_(pa.int64()), "event_at": view.instants, "known_at": view.instants}
        kept = {n: t for n, t in types.items() if n not in {"key", "word"} - set(view.keys)}
        columns = {
            dict(view.stored).get(n, n): pa.array(
                [
                    r[n].replace(tzinfo=None) if r[n] and pa.types.is_timestamp(t) and not t.tz else r[n]
                    for r in together[name]
                ],
                t,
            )
            for n, t in kept.items()
        }
        pq.write_table(pa.table(columns), folder / f"{name}.parquet", row_group_size=50)
    return together


def open_store(folder: Path, offline: dict[str, Any], registry: str) -> FeatureStore:
    """A Feast repo in `folder` with the views of this file; names the registry's file."""
    thing = Entity(name="thing", join_keys=["key"], value_type=ValueType.INT64)
    word = Entity(name="word_entity", join_keys=["word"], value_type=ValueType.STRING)
    views = {name: _feast_view(folder, name, view, [thing, word]) for name, view in VIEWS.items()}

    @on_demand_feature_view(
        sources=[views["mapped"][["num"]]],
        input_schema=[Field(name="scale", dtype=Float64)],
        schema=[Field(name="scaled_num", dtype=Float64)],
        mode="pandas",
        name="scaled",
    )
    def scaled(inputs: pd.DataFrame) -> pd.DataFrame:
        import pandas

        return pandas.DataFrame({"scaled_num": inputs["mapped__num"] * inputs["scale"]})

    config = RepoConfig(
        project="test",
        registry=str(folder / registry),
        provider="local",
        offline_store=offline,
        online_store=None,
        repo_path=folder,
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    store.apply([thing, word, *views.values(), scaled])
    return store


def projected(store: FeatureStore, without: dict[str, str]) -> list[Any]:
    """What to ask for: every projection but `without`, and the on-demand view."""
    found: list[Any] = []
    for name, (view_name, key_map) in PROJECTIONS.items():
        if name not in without:
            view = store.get_feature_view(view_name)[list(VALUES)]
            # All have an alias: Feast cannot compare a service in which some projections of a view have none.
            found.append(view.with_name(name).with_join_key_map(key_map))
    return [*found, store.get_on_demand_feature_view("scaled")]


def _feast_view(folder: Path, name: str, view: View, entities: list[Entity]) -> FeatureView:
    stored = dict(view.stored)
    source = FileSource(
        name=f"{name}_source",
        path=str(folder / f"{name}.parquet"),
        file_format=ParquetFormat(),
        timestamp_field="event_at",
        created_timestamp_column="known_at" if view.has_known else "",
        field_mapping={old: new for new, old in stored.items()},
    )
    fields = [Field(name="num", dtype=Float64), Field(name="text", dtype=String)]
    fields += [Field(name="items", dtype=Array(Int64))]
    fields += [Field(name=k, dtype=Int64 if k == "key" else String) for k in view.keys]
    used = [e for e in entities if e.join_key in view.keys]
    return FeatureView(name=name, entities=used, ttl=view.ttl, schema=fields, source=source)
