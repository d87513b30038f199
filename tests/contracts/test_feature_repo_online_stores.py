"""One contract, two stores: Feast's own Redis store and the packed one answer the same.

Intended differences, each with its test below or in test_feature_repo_packed_store.py:
- a view's time to live holds on every read;
- a later known time corrects a row of equal event time;
- an entity without a row has the status NOT_FOUND (Feast's store says PRESENT, with null values);
- whole numbers beyond 2**53 stay exact in a column that also has nulls (Feast's go through a double);
- empty bytes stay empty bytes (Feast takes them for null in a batch that has no others);
- a null instant is a null Value (Feast writes the number that stands for NaT); both read as None.
"""

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import redis
from feast import FeatureStore, FeatureView, Field, ValueType
from feast.infra.key_encoding_utils import deserialize_entity_key
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import feast_value_type_to_python_type
from feast.types import (
    Array,
    Bool,
    Bytes,
    FeastType,
    Float32,
    Float64,
    Int32,
    Int64,
    Json,
    Map,
    Set,
    String,
    UnixTimestamp,
    Uuid,
)
from feast.types import (
    Decimal as DecimalType,
)
from feast.utils import _convert_arrow_to_proto
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_repo.stores.packed.keys import entities_of_arrow
from feature_repo.stores.packed.store import PackedOnlineStore
from tests.feast_repos import KEY, NOW, PACKED, instants, make_view, open_repo
from tests.redis_servers import redis_server

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),  # from inside Feast
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
]

HOUR = timedelta(hours=1)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
SMALL = st.integers(-(2**31), 2**31 - 1)
SAFE = st.integers(-(2**53), 2**53)  # what Feast keeps exact among nulls
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
MOMENTS = st.datetimes(datetime(1975, 1, 1), datetime(2100, 1, 1)).map(lambda t: t.replace(microsecond=0, tzinfo=UTC))
UTC_INSTANT = pa.timestamp("us", tz="UTC")

# Feast type, Arrow type, one value
SCALARS: dict[str, tuple[FeastType, pa.DataType, st.SearchStrategy]] = {
    "float": (Float32, pa.float32(), FLOATS),
    "double": (Float64, pa.float64(), st.floats(allow_nan=False, allow_infinity=False)),
    "int32": (Int32, pa.int32(), SMALL),
    "int64": (Int64, pa.int64(), SAFE),
    "bool": (Bool, pa.bool_(), st.booleans()),
    "string": (String, pa.string(), TEXT),
    "bytes": (Bytes, pa.binary(), st.binary(min_size=1, max_size=8)),
    "instant": (UnixTimestamp, UTC_INSTANT, MOMENTS),
    "json": (Json, pa.string(), st.dictionaries(TEXT, SMALL, max_size=2).map(json.dumps)),
    "uuid": (Uuid, pa.string(), st.uuids().map(str)),
    "decimal": (DecimalType, pa.string(), st.decimals(-1000, 1000, places=2).map(str)),
}
LISTS: dict[str, tuple[FeastType, pa.DataType, st.SearchStrategy]] = {
    f"{name}s": (Array(of), pa.list_(arrow), st.lists(values, max_size=4))
    for name, (of, arrow, values) in SCALARS.items()
    if name in ("float", "double", "int32", "int64", "bool", "string", "bytes", "instant")
}
OTHERS: dict[str, tuple[FeastType, pa.DataType, st.SearchStrategy]] = {
    # Feast takes a map as JSON text; an Arrow map it refuses
    "map": (Map, pa.string(), st.dictionaries(TEXT, TEXT, max_size=2).map(json.dumps)),
    "set": (Set(Int64), pa.list_(pa.int64()), st.lists(SMALL, max_size=3, unique=True)),
}
TYPES = SCALARS | LISTS | OTHERS


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with redis_server() as started:
        yield started


@pytest.fixture(scope="module")
def stores(port: int, tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureStore, FeatureStore]:
    """Feast's own and ours, in two databases of one server."""
    folder = tmp_path_factory.mktemp("stores")
    stock = open_repo(folder / "stock", {"type": "redis", "connection_string": f"127.0.0.1:{port},db=0"})
    packed = open_repo(folder / "packed", {"type": PACKED, "connection_string": f"redis://127.0.0.1:{port}/1"})
    return stock, packed


@st.composite
def views_and_rows(draw: st.DrawFn) -> tuple[dict[str, FeastType], pa.Table, dict[str, dict[str, str]]]:
    """Schema, rows and tags: any types, nulls anywhere, lists with and without a fixed place."""
    names = draw(st.lists(st.sampled_from(sorted(TYPES)), min_size=1, max_size=6))
    num_rows = draw(st.integers(1, 5))
    schema: dict[str, FeastType] = {"item_id": Int64}
    columns: dict[str, pa.Array] = {"item_id": pa.array(range(num_rows), pa.int64())}
    tags = {}
    for place, name in enumerate(names):
        of, arrow, values = TYPES[name]
        column = draw(st.lists(st.one_of(st.none(), values), min_size=num_rows, max_size=num_rows))
        schema[f"f{place}_{name}"] = of
        columns[f"f{place}_{name}"] = pa.array(column, arrow)
        if name in LISTS and draw(st.booleans()):
            tags[f"f{place}_{name}"] = {"packed_length": "4"}
    columns["event_at"] = instants(*[HOUR] * num_rows)
    columns["known_at"] = instants(*[HOUR] * num_rows)
    return schema, pa.table(columns), tags


def view_of(folder: Path, schema: dict[str, FeastType], rows: pa.Table, tags: dict[str, dict[str, str]]) -> FeatureView:
    view = make_view(folder, "generated", schema, rows, tags=tags)
    view.entity_columns = [Field(name="item_id", dtype=Int64)]
    view.features = [f for f in view.schema if f.name != "item_id"]
    return view


def answers(rows: list[tuple[datetime | None, dict[str, Value] | None]], view: FeatureView) -> list[object]:
    types = {f.name: f.dtype.to_value_type() for f in view.features}
    return [
        None if values is None else (at, {n: feast_value_type_to_python_type(v, types[n]) for n, v in values.items()})
        for at, values in rows
    ]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=views_and_rows())
def test_generated_views_and_rows_read_alike(
    stores: tuple[FeatureStore, FeatureStore], port: int, tmp_path: Path, case
) -> None:
    schema, rows, tags = case
    view = view_of(tmp_path, schema, rows, tags)
    stock, packed = stores
    protos = _convert_arrow_to_proto(rows, view, {"item_id": ValueType.INT64})
    keys = [key for key, _, _, _ in protos]
    theirs, ours = RedisOnlineStore(), PackedOnlineStore()
    with redis.Redis(port=port) as client:
        client.flushall()
    theirs.online_write_batch(stock.config, view, protos, None)
    list(ours.write_arrow(packed.config, view, rows.to_batches()))
    wanted = answers(theirs.online_read(stock.config, view, keys), view)
    assert answers(ours.online_read(packed.config, view, keys), view) == wanted
    with redis.Redis(port=port, db=1) as client:
        before = {k: client.get(k) for k in client.scan_iter()}
        client.flushdb()
        ours.online_write_batch(packed.config, view, protos, None)  # the other way in packs the same answers
        assert set(client.scan_iter()) == set(before)
    assert answers(ours.online_read(packed.config, view, keys), view) == wanted


def every_type_table() -> tuple[dict[str, FeastType], pa.Table]:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    samples: dict[str, tuple[object, object]] = {
        "float": (1.5, 0.0),
        "double": (0.1, -0.0),
        "int32": (-5, 0),
        "int64": (2**53, -(2**53)),
        "bool": (True, False),
        "string": ("né", ""),
        "bytes": (b"\0\xff", b""),
        "instant": (moment, moment - HOUR),
        "json": ('{"a": 1}', "[]"),
        "uuid": (str(uuid.UUID(int=1)), str(uuid.UUID(int=2))),
        "decimal": (str(Decimal("1.10")), "0"),
    }
    schema: dict[str, FeastType] = {"item_id": Int64}
    columns: dict[str, pa.Array] = {"item_id": pa.array([1, 2, 3])}
    for name, (of, arrow, _) in SCALARS.items():
        schema[name], columns[name] = of, pa.array([*samples[name], None], arrow)
    for name, (of, arrow, _) in LISTS.items():
        first, second = samples[name.removesuffix("s")]
        schema[name], columns[name] = of, pa.array([[first, second], [second], []], arrow)
    schema["map"], columns["map"] = Map, pa.array(['{"a": "b"}', "{}", None])
    schema["set"], columns["set"] = Set(Int64), pa.array([[1, 2], [3], None], OTHERS["set"][1])
    columns["event_at"] = instants(HOUR, 2 * HOUR, 3 * HOUR)
    columns["known_at"] = instants(HOUR, HOUR, HOUR)
    return schema, pa.table(columns)


def test_get_online_features_answers_alike_for_every_type(
    stores: tuple[FeatureStore, FeatureStore], tmp_path: Path
) -> None:
    schema, rows = every_type_table()
    refs = [f"typed:{name}" for name in schema if name != "item_id"] + ["other:float"]
    found = []
    for store, folder in zip(stores, ("stock", "packed"), strict=True):
        typed = make_view(tmp_path / folder, "typed", schema, rows)
        other = make_view(tmp_path / folder, "other", {"item_id": Int64, "float": Float32}, rows)
        store.apply([KEY, typed, other])
        list_of_rows = _convert_arrow_to_proto(rows, typed, {"item_id": ValueType.INT64})
        provider = store._get_provider()
        provider.online_write_batch(store.config, typed, list_of_rows, None)
        store.materialize(NOW - 30 * HOUR, NOW, feature_views=["other"])
        response = store.get_online_features(refs, {"item_id": [3, 99, 1, 2, 1]}, full_feature_names=True)
        found.append(response)
    stock, packed = (r.to_dict(include_event_timestamps=True) for r in found)
    assert list(stock) == list(packed)
    for name, values in stock.items():
        assert packed[name] == values, name
    for theirs, ours in zip(found[0].proto.results, found[1].proto.results, strict=True):
        assert ours.event_timestamps == theirs.event_timestamps
    present = [1, 1, 1, 1, 1]
    assert list(found[0].proto.results[1].statuses) == present
    assert list(found[1].proto.results[1].statuses) == [1, 3, 1, 1, 1]


def test_stated_difference_whole_numbers_beside_nulls_stay_exact(
    stores: tuple[FeatureStore, FeatureStore], port: int, tmp_path: Path
) -> None:
    rows = pa.table(
        {
            "item_id": [1, 2],
            "big": pa.array([2**53 + 1, None], pa.int64()),
            "event_at": instants(HOUR, HOUR),
            "known_at": instants(HOUR, HOUR),
        }
    )
    view = view_of(tmp_path, {"item_id": Int64, "big": Int64}, rows, {})
    protos = _convert_arrow_to_proto(rows, view, {"item_id": ValueType.INT64})
    assert protos[0][1]["big"].int64_val == 2**53
    store = PackedOnlineStore()
    list(store.write_arrow(stores[1].config, view, rows.to_batches()))
    (_, values), _ = store.online_read(stores[1].config, view, [key for key, _, _, _ in protos])
    assert values is not None
    assert values["big"].int64_val == 2**53 + 1


@given(
    st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), SMALL, TEXT), min_size=1, max_size=5),
)
def test_entities_of_arrow_columns_are_feasts_own(keys) -> None:
    longs, smalls, words = zip(*keys, strict=True)
    columns = {
        "b_id": (ValueType.INT64, pa.array(longs, pa.int64())),
        "a_id": (ValueType.INT32, pa.array(smalls, pa.int32())),
        "word": (ValueType.STRING, pa.array(words)),
    }
    for raw, (long, small, word) in zip(entities_of_arrow(columns), keys, strict=True):
        wanted = EntityKey(
            join_keys=["a_id", "b_id", "word"],
            entity_values=[Value(int32_val=small), Value(int64_val=long), Value(string_val=word)],
        )
        assert deserialize_entity_key(raw, 3) == wanted
    (single,) = entities_of_arrow({"b_id": (ValueType.INT64, pa.array(longs[:1], pa.int64()))})
    assert deserialize_entity_key(single, 3).entity_values[0].int64_val == longs[0]
    assert np.all([r.startswith(b"\3\0\0\0") for r in entities_of_arrow(columns)])
