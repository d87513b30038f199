"""Windowed counts and rates against loops over the events, hour by hour."""

from datetime import datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from core.schema import HEADS
from core.workspace import Workspace
from feature_repo.build import build_features
from tests.feature_logs import END, START, SmallLog, random_log, settings_of

HOUR = timedelta(hours=1)
SPANS = {"1h": 1, "24h": 24, "7d": 168, "total": None}
LAG = timedelta(minutes=5)


def first_hour_that_shows(event: dict) -> datetime:
    """End of the event's hour, or the first whole hour at which it had arrived, whichever is later."""
    at = event["event_at"].replace(minute=0, second=0, microsecond=0) + HOUR
    while at < event["known_at"]:
        at += HOUR
    return at


def belongs(event: dict, hour: datetime, span: int | None) -> bool:
    shows = event.get("shows") or event.setdefault("shows", first_hour_that_shows(event))
    if shows > hour:
        return False
    if span is None:
        return True
    return not event["is_time_imputed"] and hour - span * HOUR <= event["event_at"] < hour


def expected(log: SmallLog, key: str, entity: int, hour: datetime) -> dict[str, float]:
    shown = [e for e in log.tables["impressions"] if e[key] == entity]
    done = [e for e in log.tables["engagements"] if e[key] == entity]
    values: dict[str, float] = {}
    for name, span in SPANS.items():
        seen = [e for e in shown if belongs(e, hour, span)]
        values[f"num_impressions_{name}"] = len(seen)
        for kind in HEADS:
            count = sum(1 for e in done if e["kind"] == kind and belongs(e, hour, span))
            watched = sum(1 for e in seen if e["observed_kinds"] is None or kind in e["observed_kinds"])
            values[f"num_{kind}_{name}"] = count
            if kind in ("click", "report"):
                prior = {"click": 0.10, "report": 0.0005}[kind]
                values[f"rate_{kind}_{name}"] = min(1.0, (count + prior * 20) / (watched + 20))
    return values


def rows_of(workspace: Workspace, view: str, key: str) -> dict[int, list[dict]]:
    by_entity: dict[int, list[dict]] = {}
    for row in pq.read_table(workspace.features / view).to_pylist():
        by_entity.setdefault(row[key], []).append(row)
    return {entity: sorted(rows, key=lambda r: r["event_at"]) for entity, rows in by_entity.items()}


@pytest.mark.parametrize(
    ("view", "key", "seed"),
    [
        ("user_activity", "user_id", 1),
        ("post_activity", "post_id", 2),
        ("creator_activity", "creator_id", 3),
    ],
)
def test_the_last_row_before_every_hour_equals_a_count_over_the_events(
    tmp_path: Path, view: str, key: str, seed: int
) -> None:
    log = random_log(seed)
    workspace = log.write(tmp_path)
    build_features(workspace, settings_of(workspace))
    stored = rows_of(workspace, view, key)
    assert set(stored) == {e[key] for t in ("impressions", "engagements") for e in log.tables[t]}
    for entity, rows in sorted(stored.items())[:2]:
        instants = [r["event_at"] for r in rows]
        assert len(set(instants)) == len(instants)
        hour = START + HOUR
        while hour <= END:
            before = [r for r in rows if r["event_at"] <= hour]
            wanted = expected(log, key, entity, hour)
            got = before[-1] if before else dict.fromkeys(wanted, 0)
            if before or any(v for n, v in wanted.items() if n.startswith("num")):
                assert {n: got[n] for n in wanted} == pytest.approx(wanted, abs=1e-6), (entity, hour)
            hour += 5 * HOUR if before and hour - before[-1]["event_at"] > 200 * HOUR else HOUR


def test_counts_fall_again_when_the_events_leave_the_window(tmp_path: Path) -> None:
    log = random_log(5, num_impressions=1, num_users=1, num_posts=1, is_awkward=False)
    log.tables["impressions"][0].update(event_at=START + timedelta(minutes=30), known_at=START + timedelta(minutes=30))
    log.tables["engagements"].clear()
    workspace = log.write(tmp_path)
    build_features(workspace, settings_of(workspace))
    rows = rows_of(workspace, "user_activity", "user_id")[0]
    seen = [
        (
            (r["event_at"] - START) / HOUR,
            *(r[f"num_impressions_{w}"] for w in ("1h", "24h", "7d", "total")),
        )
        for r in rows
    ]
    assert seen == [(1, 1, 1, 1, 1), (2, 0, 1, 1, 1), (25, 0, 0, 1, 1), (169, 0, 0, 0, 1)]


def test_every_row_is_published_five_minutes_after_its_hour_and_none_after_the_data_end(tmp_path: Path) -> None:
    workspace = random_log(6).write(tmp_path)
    build_features(workspace, settings_of(workspace))
    for view in ("user_activity", "post_activity", "creator_activity", "user_history", "user_affinity"):
        for row in pq.read_table(workspace.features / view, columns=["event_at", "known_at"]).to_pylist():
            assert row["known_at"] - row["event_at"] == LAG
            assert row["event_at"] <= END


def test_a_late_event_is_in_no_row_before_it_arrived(tmp_path: Path) -> None:
    log = random_log(7, num_impressions=1, num_users=1, num_posts=1, is_awkward=False)
    late = log.tables["impressions"][0]
    late.update(event_at=START + timedelta(minutes=30), known_at=START + timedelta(hours=9, minutes=10))
    log.tables["engagements"].clear()
    workspace = log.write(tmp_path)
    build_features(workspace, settings_of(workspace))
    rows = rows_of(workspace, "post_activity", "post_id")[0]
    assert min(r["known_at"] for r in rows) >= late["known_at"] + LAG
    assert rows[0]["num_impressions_1h"] == 0  # it left the hour's window long before it arrived
    assert rows[0]["num_impressions_24h"] == 1
