"""The ASOF store in a Feast project of its own: results in every form, its options, and what it refuses."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore
from feast.data_format import ParquetFormat
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

from core.errors import ConfigError, FeatureStoreError, InputError, MissingStageError
from feature_repo.stores import point_in_time
from tests.asof_project import INSTANT, REFS, START, entity_rows, open_store, write_history

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),  # from inside Feast, ibis and pandas
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:On demand feature view is an experimental feature"),
    pytest.mark.filterwarnings("ignore:(Saving dataset|Retrieving datasets) is an experimental feature"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_history(tmp_path)
    return tmp_path


@pytest.fixture
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(point_in_time, "MIN_RANGE_ROWS", 50)
    monkeypatch.setattr(point_in_time, "MAX_RANGE_ROWS", 50)


def retrieve(store: FeatureStore, entities: Any, refs: list[str] = REFS, **options: Any) -> Any:
    return store.get_historical_features(entity_df=entities, features=refs, **options)


@pytest.mark.usefixtures("small_ranges")
def test_every_form_of_result_holds_the_same_rows_in_the_same_order(folder: Path, tmp_path: Path) -> None:
    store = open_store(folder)
    job = retrieve(store, entity_rows())
    table = job.to_arrow()
    assert table.column_names == ["item_id", "event_timestamp", "total", "row", "score", "label", "load", "share"]
    assert table["row"].to_pylist() == list(range(120))
    assert 0 < table["score"].null_count < 60
    assert table["load"].null_count == sum(at < START for at in entity_rows()["event_timestamp"])
    batches = list(job.to_record_batches(batch_rows=33))
    assert [b.num_rows for b in batches] == [33, 17, 33, 17, 20], "no batch reaches over a range of 50 rows"
    assert pa.Table.from_batches(batches).to_pylist() == table.to_pylist()
    assert job.to_parquet(tmp_path / "out" / "joined.parquet", batch_rows=40) == 120
    assert pq.read_table(tmp_path / "out" / "joined.parquet").to_pylist() == table.to_pylist()
    pd.testing.assert_frame_equal(job.to_df(), table.to_pandas())
    with pytest.raises(ValueError, match="at least 1"):
        list(job.to_record_batches(0))


def test_a_saved_dataset_holds_the_on_demand_features_and_is_read_back(folder: Path) -> None:
    store = open_store(folder)
    for path in ("saved.parquet", "saved_folder"):
        storage = SavedDatasetFileStorage(path=str(folder / path), file_format=ParquetFormat())
        job = retrieve(store, entity_rows())
        store.create_saved_dataset(job, name=path, storage=storage)
        with pytest.raises(SavedDatasetLocationAlreadyExists):
            store.create_saved_dataset(job, name=path, storage=storage)
        store.create_saved_dataset(job, name=path, storage=storage, allow_overwrite=True)
        rows = store.get_saved_dataset(path).to_df()
        assert len(rows) == 120
        wanted = job.to_df().sort_values(["event_timestamp", "item_id"])
        got = rows.sort_values(["event_timestamp", "item_id"])
        for name in ("score", "share", "load"):
            np.testing.assert_array_equal(got[name], wanted[name])
    assert ds.dataset(folder / "saved_folder").count_rows() == 120


def test_no_rows_and_no_matches_keep_the_schema(folder: Path) -> None:
    store = open_store(folder)
    full = retrieve(store, entity_rows()).to_arrow().schema
    nothing = retrieve(store, entity_rows().iloc[:0].astype({"item_id": "int64"}))
    assert nothing.to_arrow().schema.names == full.names
    (batch,) = nothing.to_record_batches(10)
    assert batch.num_rows == 0
    assert batch.schema.field("score").type == pa.float32()
    unmatched = retrieve(store, entity_rows().assign(item_id=-1)).to_arrow()
    assert unmatched["score"].null_count == len(unmatched)
    assert unmatched.schema.field("label").type == full.field("label").type


def test_pulled_rows_stream_in_batches_and_say_their_columns_without_rows(folder: Path) -> None:
    store = open_store(folder)
    view = store.get_feature_view("scores")

    def pull(end_hours: int) -> Any:
        return store._get_provider().offline_store.pull_latest_from_table_or_query(
            store.config, view.batch_source, ["item_id"], ["score"], "event_at", "known_at",
            START - timedelta(days=1), START + timedelta(hours=end_hours),
        )  # fmt: skip

    batches = list(pull(100).to_record_batches(batch_rows=8))
    assert all(0 < b.num_rows <= 8 for b in batches)
    table = pa.Table.from_batches(batches)
    assert sorted(table["item_id"].to_pylist()) == list(range(20))
    assert table.column_names == ["item_id", "score", "event_at", "known_at"]
    assert table.sort_by("item_id").equals(pull(100).to_arrow().sort_by("item_id"))
    (empty,) = pull(-1).to_record_batches(batch_rows=8)
    assert empty.num_rows == 0
    assert empty.schema == table.schema


def test_feast_materialises_views_with_and_without_entities(folder: Path) -> None:
    store = open_store(folder)
    store.materialize(START - timedelta(hours=1), START + timedelta(hours=20), disable_event_timestamp=False)
    got = store.get_online_features(["scores:label", "site:load"], [{"item_id": 3}]).to_dict()
    rows = retrieve(
        store,
        pd.DataFrame({"item_id": [3], "event_timestamp": [START + timedelta(hours=20)]}),
        ["scores:label", "site:load"],
    ).to_df()
    assert got["label"] == rows["label"].tolist()
    assert got["load"] == rows["load"].tolist() == [4.0]


def test_rows_that_tie_in_everything_answer_with_the_last_in_the_files(tmp_path: Path) -> None:
    write_history(tmp_path)
    at = pa.array([START] * 4000, INSTANT)
    table = pa.table({"item_id": [1] * 4000, "score": pa.array(range(4000), pa.float32()), "label": ["x"] * 4000})
    for file in (tmp_path / "scores").rglob("*.parquet"):
        file.unlink()
    pq.write_table(table.append_column("event_at", at).append_column("known_at", at), tmp_path / "scores" / "a.parquet")
    entities = pd.DataFrame({"item_id": [1], "event_timestamp": [START]})
    for threads in (1, 2):
        assert retrieve(open_store(tmp_path, threads=threads), entities, ["scores:score"]).to_df()["score"][0] == 3999


def test_features_may_be_called_like_the_columns_that_the_join_makes(tmp_path: Path) -> None:
    write_history(tmp_path)
    names = ["row_id", "_place", "event", "known", "available", "history_number", "k0"]
    columns = {name: [float(n)] for n, name in enumerate(names)}
    pq.write_table(pa.table({**columns, "at": pa.array([START], INSTANT)}), tmp_path / "site.parquet")
    store = open_store(tmp_path, site_fields=names)
    entities = f"SELECT TIMESTAMPTZ '{START}' AS event_timestamp;"
    rows = retrieve(store, entities, [f"site:{name}" for name in names]).to_arrow()
    assert [rows[name].to_pylist() for name in names] == list(columns.values())


def test_a_fact_between_two_microseconds_is_not_seen_before_it_is_true(tmp_path: Path) -> None:
    write_history(tmp_path)
    nanos = int(START.timestamp()) * 10**9 + 1_500
    times = pa.array([nanos], pa.timestamp("ns", tz="UTC"))
    pq.write_table(pa.table({"load": [7.0], "at": times}), tmp_path / "site.parquet")
    at = pa.array([nanos - 1, nanos + 499, nanos + 500], pa.timestamp("ns"))
    rows = retrieve(open_store(tmp_path), pa.table({"event_timestamp": at}), ["site:load"]).to_arrow()
    assert rows["load"].to_pylist() == [None, None, 7.0]
    assert rows["event_timestamp"].to_pylist() == at.to_pylist()


def test_a_join_larger_than_its_memory_spills_beside_the_repo_and_leaves_nothing(folder: Path) -> None:
    rng = np.random.default_rng(0)
    num_rows = 600_000
    at = pa.array(int(START.timestamp() * 1e6) + np.arange(num_rows), pa.int64()).cast(INSTANT)
    wide = pa.table({"item_id": rng.permutation(num_rows), "score": pa.array(rng.random(num_rows), pa.float32())})
    wide = wide.append_column("label", pa.array([f"a label of some length {i}" for i in range(num_rows)]))
    for file in (folder / "scores").rglob("*.parquet"):
        file.unlink()
    pq.write_table(wide.append_column("event_at", at).append_column("known_at", at), folder / "scores" / "a.parquet")
    entities = pa.table(
        {"item_id": np.arange(num_rows), "event_timestamp": at.take(pa.array([num_rows - 1] * num_rows))}
    )
    store = open_store(folder, memory_limit="60MB", threads=1, spill_directory="spilled")
    job = retrieve(store, entities, ["scores:score", "scores:label"])
    seen = 0
    for batch in job.to_record_batches(50_000):
        seen += batch.num_rows
        assert batch["score"].null_count == 0
    assert seen == num_rows
    assert list((folder / "spilled").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda e: e.drop(columns="item_id"), InputError, "lack item_id"),
        (lambda e: pa.Table.from_pandas(e.drop(columns="total")), InputError, "lack total"),
        (
            lambda e: e.rename(columns={"event_timestamp": "x"}).assign(y=lambda d: d["x"]),
            InputError,
            "event_timestamp",
        ),
        (lambda e: e.assign(score=1.0), InputError, "two columns score"),
        (lambda e: e.assign(item_id="seven"), InputError, "another type"),
        (lambda e: e.assign(item_id=[object()] * len(e)), InputError, "convert to Arrow"),
        (lambda _: "nowhere.parquet", InputError, "not found"),
        (lambda _: "SELECT no such thing", InputError, "no such thing"),
        (lambda _: None, InputError, "without entity rows"),
    ],
)
def test_entity_rows_that_cannot_be_joined_are_refused_by_name(folder: Path, change, error, match: str) -> None:
    store = open_store(folder)
    with pytest.raises(error, match=match):
        retrieve(store, change(entity_rows())).to_arrow()


def test_tables_and_options_that_are_wrong_are_refused_by_name(folder: Path) -> None:
    store = open_store(folder)
    for options, error in (({"memory_limit": "much"}, ConfigError), ({"memory_limit": "1MB"}, FeatureStoreError)):
        with pytest.raises(error, match=r"memory_limit"):
            retrieve(open_store(folder, **options), entity_rows()).to_arrow()
    pq.write_table(pa.table({"load": [1.0], "when": pa.array([START], INSTANT)}), folder / "site.parquet")
    with pytest.raises(InputError, match=r"site_table .* no column at"):
        retrieve(store, entity_rows()).to_arrow()
    (folder / "site.parquet").write_bytes(b"not parquet")
    with pytest.raises(FeatureStoreError, match=r"site\.parquet"):
        retrieve(store, entity_rows()).to_arrow()
    (folder / "site.parquet").unlink()
    with pytest.raises(MissingStageError, match="site_table"):
        retrieve(store, entity_rows())
