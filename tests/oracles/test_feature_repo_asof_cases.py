"""Generated point-in-time joins: our store, Feast's own DuckDB store and a loop over rows give the same values.

Time to live, known time, late and out-of-order rows, corrections, nulls in keys, values and instants, several keys,
join-key maps, field mapping, zones, views without entities and on-demand views, with every kind of entity rows
and every kind of result. `asof_cases.NOT_FOR_STOCK` states, with the reason, where Feast's own store is not asked.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureService

from feature_repo.stores import on_demand, point_in_time
from tests import asof_cases
from tests.asof_cases import NOT_FOR_STOCK, OURS, Case

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),  # from inside Feast, ibis and pandas
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:On demand feature view is an experimental feature"),
]


def naive(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(event_timestamp=frame["event_timestamp"].dt.tz_localize(None))


def written(frame: pd.DataFrame, folder: Path) -> Path:
    path = folder / "entities.parquet"
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), path)
    return path


FORMS: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    "frame": lambda frame, _: frame,
    "frame without zone": lambda frame, _: naive(frame),
    "frame in another zone, nanoseconds, other name": lambda frame, _: frame.assign(
        event_timestamp=frame["event_timestamp"].dt.tz_convert("America/Lima").dt.as_unit("ns")
    ).rename(columns={"event_timestamp": "seen_at"}),
    "frame with text for instants": lambda frame, _: frame.assign(
        event_timestamp=[at.isoformat() for at in frame["event_timestamp"]]
    ),
    "frame whose keys became floats": lambda frame, _: frame.astype({"key": "float64", "viewer_key": "float64"}),
    "arrow": lambda frame, _: pa.Table.from_pandas(frame, preserve_index=False),
    "arrow without zone, other name": lambda frame, _: pa.Table.from_pandas(
        naive(frame).rename(columns={"event_timestamp": "seen_at"}), preserve_index=False
    ),
    "parquet path": lambda frame, folder: written(frame, folder),
    "relative parquet path": lambda frame, folder: written(frame, folder).name,
    "sql": lambda frame, folder: f"SELECT * FROM '{written(frame, folder)}' ORDER BY \"row\"",
}
RESULTS: dict[str, Callable[[Any, Path], pa.Table]] = {
    "arrow": lambda job, _: job.to_arrow(),
    "pandas": lambda job, _: pa.Table.from_pandas(job.to_df(), preserve_index=False),
    "stream": lambda job, _: pa.Table.from_batches(job.to_record_batches(7)),
    "parquet": lambda job, folder: (job.to_parquet(folder / "out.parquet", 11), pq.read_table(folder / "out.parquet"))[
        1
    ],
}


def plain(value: Any) -> Any:
    """A value as the loop gives it: no NaN for null."""
    return None if isinstance(value, float) and np.isnan(value) else value


def joined(folder: Path, offline: dict[str, Any], without: dict[str, str], entities: Any, result: str) -> pa.Table:
    store = asof_cases.open_store(folder, offline, f"{offline['type'].rsplit('.')[-1]}.db")
    service = FeatureService(name="all", features=asof_cases.projected(store, without))
    store.apply([service])
    job = store.get_historical_features(
        entity_df=entities, features=service, full_feature_names=True, filter_by_created_timestamp=True
    )
    return RESULTS[result](job, folder)


def differences(
    table: pa.Table, cases: list[Case], everyone: list[dict[str, Any]], without: dict[str, str]
) -> list[str]:
    """What `table` says other than the loop, in order of rows."""
    found = []
    entities = [(case, row) for case in cases for row in case.entities]
    assert len(entities) == table.num_rows
    for (case, entity), got in zip(entities, table.to_pylist(), strict=True):
        wanted = asof_cases.expected({**case.tables, "everyone": everyone}, entity)
        for name, value in wanted.items():
            if name.split("__")[0] not in without and plain(got[name]) != value:
                found.append(f"case {entity['case']} {name}: {got[name]!r}, by the loop {value!r}, at {entity}")
    return found


def check_batch(folder: Path, seed: int, num_cases: int) -> int:
    """Holds both stores against the loop over `num_cases` cases; number of values that were not null."""
    rng = np.random.default_rng(seed)
    cases = [asof_cases.generate(rng, number) for number in range(num_cases)]
    everyone = asof_cases.write_tables(folder, cases)["everyone"]
    frame = asof_cases.entity_frame(cases)
    form = list(FORMS)[seed % len(FORMS)]
    result = list(RESULTS)[(seed // 3) % len(RESULTS)]
    options = {"type": OURS, "threads": 1 + seed % 2, "memory_limit": "200MB"}
    ours = joined(folder, options, {}, FORMS[form](copy.deepcopy(frame), folder), result)
    assert ours["row"].to_pylist() == list(range(len(frame))), "order and rows stay"
    assert not differences(ours, cases, everyone, {}), (form, result)
    stock = joined(folder, {"type": "duckdb"}, NOT_FOR_STOCK, copy.deepcopy(frame), "arrow").sort_by("row")
    assert not differences(stock, cases, everyone, NOT_FOR_STOCK)
    return sum(len(ours) - ours[name].null_count for name in ours.column_names if "__" in name)


@pytest.fixture(autouse=True)
def _small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(point_in_time, "MIN_RANGE_ROWS", 60)
    monkeypatch.setattr(point_in_time, "MAX_RANGE_ROWS", 60)
    monkeypatch.setattr(on_demand, "ON_DEMAND_ROWS", 25)


@pytest.mark.parametrize("seed", range(10))
def test_thirty_cases_a_seed_agree_with_the_loop_and_with_feasts_own_store(tmp_path: Path, seed: int) -> None:
    assert check_batch(tmp_path, seed, 30) > 300


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 150))
def test_two_hundred_cases_a_seed_agree_with_the_loop_and_with_feasts_own_store(tmp_path: Path, seed: int) -> None:
    assert check_batch(tmp_path, seed, 200) > 2_000
