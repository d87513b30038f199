"""Whatever the events, a windowed count is the number of events in the window, and it falls back to zero."""

import tempfile
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from core.clock import FrozenClock
from feature_repo.build import build_features
from tests.feature_logs import END, START, random_log, settings_of

HOUR = timedelta(hours=1)
minutes = st.integers(0, 11 * 24 * 60 - 1).flatmap(lambda m: st.sampled_from([m, m // 60 * 60]))
delays = st.sampled_from([0, 0, 0, 30, 60, 1000, 9000, 12000])


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.lists(st.tuples(minutes, delays), min_size=1, max_size=12))
def test_counts_equal_the_events_in_the_window_at_every_hour_and_fall_to_zero(events: list[tuple[int, int]]) -> None:
    log = random_log(1, num_impressions=1, num_users=1, num_posts=1, is_awkward=False)
    template = log.tables["impressions"][0]
    log.tables["engagements"].clear()
    log.tables["impressions"] = [
        {
            **template,
            "event_id": f"i{number}",
            "event_at": START + timedelta(minutes=minute),
            "known_at": START + timedelta(minutes=minute + delay),
        }
        for number, (minute, delay) in enumerate(events)
    ]
    end = END + timedelta(days=9)  # past the longest window and the longest delay
    with tempfile.TemporaryDirectory() as folder:
        workspace = log.write(Path(folder), anchor_at=end)
        build_features(workspace, settings_of(workspace), FrozenClock(end))
        rows = sorted(pq.read_table(workspace.features / "post_activity").to_pylist(), key=lambda r: r["event_at"])
    place = -1
    hour = START
    while hour <= end:
        while place + 1 < len(rows) and rows[place + 1]["event_at"] <= hour:
            place += 1
        for name, span in (("1h", 1), ("24h", 24), ("7d", 168), ("total", 10**5)):
            wanted = sum(
                hour - span * HOUR <= START + timedelta(minutes=m) < hour and START + timedelta(minutes=m + d) <= hour
                for m, d in events
            )
            assert (rows[place][f"num_impressions_{name}"] if place >= 0 else 0) == wanted
        hour += HOUR
    assert rows[-1]["num_impressions_total"] == len(events)
    assert rows[-1]["num_impressions_7d"] == rows[-1]["num_impressions_24h"] == rows[-1]["num_impressions_1h"] == 0
