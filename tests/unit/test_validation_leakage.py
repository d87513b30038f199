import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import LeakError
from events.read import connect
from tests.small_log import END_AT, small_settings
from validation.leakage import Probe, require_known, require_no_leak

NOON = END_AT.timestamp()
HOUR = 3_600.0


def test_known_before_use_is_no_leak():
    require_known("user_activity", np.array([NOON - 1, np.nan]), np.array([True, False]), np.array([NOON, NOON]))


def test_a_missing_known_time_is_refused():
    with pytest.raises(LeakError, match=r"1 of 2 rows carry features without a known time, first at rows \[1\]"):
        require_known("user_activity", np.array([NOON, np.nan]), np.array([True, True]), np.array([NOON, NOON]))


def test_a_known_time_after_use_is_refused():
    with pytest.raises(LeakError, match="row 0 known 60 s after its use"):
        require_known("user_activity", np.array([NOON + 60]), np.array([True]), np.array([NOON]))


def write_activity(settings, known_at_of_late=NOON + HOUR):
    """One user's count: 1.0 known an hour before noon; 2.0 true before noon, known only after it."""
    micros = pa.timestamp("us", tz="UTC")
    folder = settings.workspace.features / "user_activity" / "day=2024-03-07"
    folder.mkdir(parents=True)

    def at(values):
        return pa.array([None if v is None else int(v * 1e6) for v in values], pa.int64()).cast(micros)

    table = pa.table(
        {
            "user_id": [7, 7],
            "num_impressions_1h": pa.array([1.0, 2.0], pa.float32()),
            "event_at": at([NOON - 2 * HOUR, NOON - HOUR]),
            "known_at": at([NOON - HOUR, known_at_of_late]),
        }
    )
    pq.write_table(table, folder / "rows.parquet")


def probe_of(value):
    ids = {"user": np.array([7, 8]), "post": np.array([0, 0]), "creator": np.array([-1, -1])}
    return Probe(ids, np.array([NOON, NOON]), {"user_activity__num_impressions_1h": np.array([value, np.nan])})


@pytest.fixture
def settings(tmp_path):
    return small_settings(tmp_path)


def check(settings, value):
    with connect(settings) as connection:
        return require_no_leak(connection, settings.workspace, probe_of(value))


def test_the_value_known_at_use_passes(settings):
    write_activity(settings)
    assert check(settings, 1.0) == 2


def test_a_planted_value_known_only_later_is_refused(settings):
    write_activity(settings)
    with pytest.raises(LeakError, match="user_id 7 has 2, known was 1"):
        check(settings, 2.0)


def test_a_value_where_none_was_known_is_refused(settings):
    write_activity(settings)
    probe = probe_of(1.0)
    probe.values["user_activity__num_impressions_1h"][1] = 3.0
    with connect(settings) as connection, pytest.raises(LeakError, match="user_id 8 has 3, known was nan"):
        require_no_leak(connection, settings.workspace, probe)


def test_a_feature_row_without_known_time_is_refused(settings):
    write_activity(settings, known_at_of_late=None)
    with pytest.raises(LeakError, match="a feature row has no known_at"):
        check(settings, 1.0)
