"""Labels against a loop over events that shares no code with the SQL."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from core.schema import HEADS
from training.labels import LABEL_WINDOW_SECONDS, label_columns_sql, positive_values

T0 = 1_700_000_000


def instants(seconds: list[float]) -> pa.Array:
    return pa.array([int(s * 1_000_000) for s in seconds], pa.int64()).cast(pa.timestamp("us", tz="UTC"))


def labels_of(impressions: list[dict], engagements: list[dict]) -> dict[str, list[float]]:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.register(
        "sample",
        pa.table(
            {
                "event_id": [i["event_id"] for i in impressions],
                "event_at": instants([i["at"] for i in impressions]),
                "observed_kinds": pa.array([i["observed"] for i in impressions], pa.list_(pa.string())),
            }
        ),
    )
    connection.register(
        "engagements",
        pa.table(
            {
                "impression_id": pa.array([e["impression_id"] for e in engagements], pa.string()),
                "kind": [e["kind"] for e in engagements],
                "event_at": instants([e["at"] for e in engagements]),
            }
        ),
    )
    rows = connection.sql(label_columns_sql()).to_arrow_table().to_pylist()
    return {r["event_id"]: [np.nan if r[f"label_{h}"] is None else r[f"label_{h}"] for h in HEADS] for r in rows}


def labels_by_hand(impressions: list[dict], engagements: list[dict]) -> dict[str, list[float]]:
    expected = {}
    for seen in impressions:
        row = []
        for head in HEADS:
            value = 0.0
            for act in engagements:
                is_of_it = act["impression_id"] == seen["event_id"] and act["kind"] == head
                if is_of_it and 0 <= act["at"] - seen["at"] <= LABEL_WINDOW_SECONDS:
                    value = 1.0
            is_known = seen["observed"] is None or head in seen["observed"]
            row.append(value if is_known else np.nan)
        expected[seen["event_id"]] = row
    return expected


def test_labels_equal_the_oracle_on_random_logs() -> None:
    rng = np.random.default_rng(0)
    impressions = [
        {
            "event_id": f"i{n}",
            "at": T0 + int(rng.integers(0, 5_000)),
            "observed": [None, ["click", "long_view"], []][rng.integers(3)],
        }
        for n in range(60)
    ]
    engagements = [
        {
            "impression_id": f"i{rng.integers(70)}" if rng.random() < 0.95 else None,
            "kind": str(rng.choice([*HEADS, "hide"])),
            "at": T0 + int(rng.integers(-100, 9_000)),
        }
        for _ in range(400)
    ]
    found, expected = labels_of(impressions, engagements), labels_by_hand(impressions, engagements)
    assert found.keys() == expected.keys()
    for event_id, row in expected.items():
        np.testing.assert_array_equal(found[event_id], row, err_msg=event_id)


def test_an_engagement_after_the_window_is_no_label() -> None:
    seen = [{"event_id": "a", "at": T0, "observed": None}, {"event_id": "b", "at": T0, "observed": None}]
    acts = [
        {"impression_id": "a", "kind": "click", "at": T0 + LABEL_WINDOW_SECONDS},
        {"impression_id": "b", "kind": "click", "at": T0 + LABEL_WINDOW_SECONDS + 1},
    ]
    found = labels_of(seen, acts)
    assert found["a"][HEADS.index("click")] == 1.0
    assert found["b"][HEADS.index("click")] == 0.0


def test_worth_of_positives_by_hand() -> None:
    def row(**kinds: float) -> list[float]:
        return [kinds.get(head, 0.0) for head in HEADS]

    labels = np.array(
        [row(), row(click=1), row(click=1, like=1), row(click=1, see_less=1), row(click=np.nan, long_view=1)],
        dtype=np.float32,
    )
    assert positive_values(labels).tolist() == pytest.approx([0.0, 1.0, 3.0, 0.0, 1.5])
    everything = np.ones((1, len(HEADS)), dtype=np.float32)
    everything[0, [HEADS.index("see_less"), HEADS.index("report")]] = 0
    assert positive_values(everything).tolist() == [8.0]
