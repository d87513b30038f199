"""The materialisation engine: the same rows as Feast's, streamed, and a cut-off run is simply run again."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import redis
from feast import FeatureStore, FileSource
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore
from feast.types import Float32, Int64, String

from core.errors import InputError
from feature_repo.stores.packed.engine import PackedEngine, PackedMaterialization
from feature_repo.stores.packed.reader import packed_store
from feature_repo.stores.packed.script import BATCH_ROWS
from tests.feast_repos import ENGINE, KEY, NOW, PACKED, make_view, open_repo
from tests.redis_servers import redis_server

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),  # from inside Feast
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
]

NUM_ITEMS = 7 * BATCH_ROWS
SCHEMA = {"item_id": Int64, "price": Float32, "name": String}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with redis_server() as started:
        yield started


@pytest.fixture
def repo(port: int, tmp_path: Path) -> FeatureStore:
    with redis.Redis(port=port) as client:
        client.flushall()
    online = {"type": PACKED, "connection_string": f"redis://127.0.0.1:{port}/0"}
    store = open_repo(tmp_path / "repo", online, {"type": ENGINE, "batch_rows": 2 * BATCH_ROWS, "show_progress": False})
    store.apply([KEY, make_view(tmp_path, "items", SCHEMA, table(tmp_path))])
    return store


def table(folder: Path) -> pa.Table:
    """Two rows per item, the later one last known."""
    items = np.arange(NUM_ITEMS)
    older, newer = NOW - timedelta(hours=3), NOW - timedelta(hours=2)
    return pa.table(
        {
            "item_id": np.concatenate([items, items]),
            "price": np.concatenate([items + 0.25, items + 0.5]).astype(np.float32),
            "name": [f"item {i}" if i % 3 else None for i in (*items, *items)],
            "event_at": pa.array([older] * NUM_ITEMS + [newer] * NUM_ITEMS, pa.timestamp("us", tz="UTC")),
            "known_at": pa.array([NOW] * 2 * NUM_ITEMS, pa.timestamp("us", tz="UTC")),
        }
    )


def engine_of(store: FeatureStore) -> PackedEngine:
    engine = store._get_provider().batch_engine
    assert isinstance(engine, PackedEngine)
    return engine


def run(store: FeatureStore) -> PackedMaterialization:
    store.materialize(NOW - timedelta(days=1), NOW)
    last = engine_of(store).last
    assert last is not None
    return last


def assert_complete(store: FeatureStore) -> None:
    items = [*range(NUM_ITEMS)]
    answer = store.get_online_features(["items:price", "items:name"], {"item_id": items}).to_dict()
    assert answer["price"] == [i + 0.5 for i in items]
    assert answer["name"] == [f"item {i}" if i % 3 else None for i in items]


def test_every_entity_gets_its_latest_row_and_feast_records_the_interval(repo: FeatureStore) -> None:
    job = run(repo)
    assert (job.num_rows, job.num_written) == (NUM_ITEMS, NUM_ITEMS)
    assert_complete(repo)
    (interval,) = repo.get_feature_view("items").materialization_intervals
    assert interval == (NOW - timedelta(days=1), NOW)


def test_a_second_run_changes_nothing(repo: FeatureStore, port: int) -> None:
    run(repo)
    with redis.Redis(port=port) as client:
        before = {key: client.get(key) for key in client.scan_iter()}
        assert run(repo).num_written == 0
        assert {key: client.get(key) for key in client.scan_iter()} == before


def test_a_run_that_dies_between_two_batches_is_completed_by_the_next(
    repo: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = packed_store(repo).write_arrow

    def dying(*args: object) -> Iterator[tuple[int, int]]:
        for place, counts in enumerate(write(*args)):
            if place == 3:
                raise ConnectionResetError("the power went")
            yield counts

    monkeypatch.setattr(packed_store(repo), "write_arrow", dying)
    with pytest.raises(ConnectionResetError):
        run(repo)
    assert repo.get_feature_view("items").materialization_intervals == []
    monkeypatch.undo()
    job = run(repo)
    assert 0 < job.num_written < job.num_rows == NUM_ITEMS  # what was written before the end stayed
    assert_complete(repo)


def test_a_job_that_streams_is_streamed(repo: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    pull, asked = DuckDBOfflineStore.pull_latest_from_table_or_query, []
    pull_all = DuckDBOfflineStore.pull_all_from_table_or_query

    def streaming(pull):
        def pulled(*args: object, **kwargs: object) -> object:
            job = pull(*args, **kwargs)

            def to_record_batches(batch_rows: int) -> Iterator[pa.RecordBatch]:
                asked.append(batch_rows)
                yield from type(job).to_arrow(job).to_batches(max_chunksize=batch_rows)

            job.to_record_batches = to_record_batches
            return job

        return pulled

    monkeypatch.setattr(DuckDBOfflineStore, "pull_latest_from_table_or_query", staticmethod(streaming(pull)))
    monkeypatch.setattr(DuckDBOfflineStore, "pull_all_from_table_or_query", staticmethod(streaming(pull_all)))
    run(repo)
    assert asked == [2 * BATCH_ROWS]
    assert_complete(repo)


def test_renamed_columns_arrive_under_the_views_own_names(repo: FeatureStore, tmp_path: Path) -> None:
    view = make_view(tmp_path, "items", SCHEMA, table(tmp_path).rename_columns(["id", "p", "name", "at", "known_at"]))
    view.batch_source = FileSource(
        name="renamed",
        path=view.batch_source.path,
        timestamp_field="event_at",
        created_timestamp_column="known_at",
        field_mapping={"id": "item_id", "p": "price", "at": "event_at"},
    )
    repo.apply([view])
    run(repo)
    assert_complete(repo)


def test_a_row_without_its_key_is_refused_by_name(repo: FeatureStore, tmp_path: Path) -> None:
    rows = table(tmp_path).slice(0, 3).set_column(0, "item_id", pa.array([1, None, 2], pa.int64()))
    repo.apply([make_view(tmp_path, "items", SCHEMA, rows)])
    with pytest.raises(InputError, match="item_id is null in 1 rows"):
        run(repo)


def test_a_view_that_must_be_transformed_is_left_to_feasts_engine(port: int, tmp_path: Path) -> None:
    stock = open_repo(tmp_path / "repo", {"type": "redis", "connection_string": f"127.0.0.1:{port},db=3"}, ENGINE)
    stock.apply([KEY, make_view(tmp_path, "items", SCHEMA, table(tmp_path).slice(0, 50))])
    stock.materialize(NOW - timedelta(days=1), NOW)
    assert engine_of(stock).last is None
    assert stock.get_online_features(["items:price"], {"item_id": [5]}).to_dict()["price"] == [5.25]
