from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from core.schema import TABLES
from events.log import append
from events.read import connect, register_log
from tests.small_log import END_AT, FIRST_AT, small_settings, small_tables, write_small_log
from validation.counterfactual import changed_since, cut_log, publication_before

HOUR = 3_600


@pytest.fixture
def settings(tmp_path):
    made = small_settings(tmp_path)
    write_small_log(made)
    return made


def as_table(name, row):
    return pa.Table.from_pylist([row], schema=TABLES[name].arrow)


def rows_of(settings, log, table):
    with connect(settings) as connection:
        register_log(connection, log)
        columns = connection.sql(f"SELECT * FROM {table}").to_arrow_table()
    return columns.to_pylist()


def test_features_are_published_five_minutes_after_the_hour():
    midnight = 86_400 * 20_000
    used = np.array([midnight + 299.9, midnight + 300, midnight + 3_899.9, midnight + 3_900])
    assert (publication_before(used) - midnight).tolist() == [300 - HOUR, 300, 300, 300 + HOUR]


def test_a_cut_log_holds_everything_until_the_cut_and_nothing_after(settings, tmp_path):
    at = FIRST_AT + timedelta(days=2, hours=7, minutes=5)
    cut = cut_log(settings.workspace.log, tmp_path / "cut", at)
    num_rows = 0
    for table in ("users", "posts", "creators", "follows", "requests", "impressions", "engagements"):
        before = rows_of(settings, settings.workspace.log, table)
        after = rows_of(settings, tmp_path / "cut", table)
        expected = [row for row in before if row["event_at"] <= at and row["known_at"] <= at]
        assert sorted(map(str, after)) == sorted(map(str, expected)), table
        num_rows += len(before)
    assert cut.num_kept + cut.num_removed == num_rows
    assert 0 < cut.num_removed < num_rows


def test_engagements_with_what_is_served_later_go_whatever_time_they_carry(settings, tmp_path):
    at = FIRST_AT + timedelta(days=2)
    tables = small_tables(np.random.default_rng(0))
    later = next(i for i in tables["impressions"].to_pylist() if i["served_at"] > at)
    early = FIRST_AT + timedelta(hours=1)
    row = tables["engagements"].to_pylist()[0] | {"event_id": "backdated", "impression_id": later["event_id"]}
    row |= {"event_at": early, "known_at": early}
    append(settings.workspace.log, "engagements", as_table("engagements", row), source="test")
    cut_log(settings.workspace.log, tmp_path / "cut", at)
    kept = {found["event_id"] for found in rows_of(settings, tmp_path / "cut", "engagements")}
    assert "backdated" not in kept
    assert "e0" in kept


def test_late_facts_are_cut_by_the_time_they_were_known(settings, tmp_path):
    at = FIRST_AT + timedelta(days=2)
    tables = small_tables(np.random.default_rng(0))
    row = tables["follows"].to_pylist()[0] | {"event_id": "late", "known_at": at + timedelta(seconds=1)}
    append(settings.workspace.log, "follows", as_table("follows", row), source="test")
    cut_log(settings.workspace.log, tmp_path / "cut", at)
    assert "late" not in {found["event_id"] for found in rows_of(settings, tmp_path / "cut", "follows")}


def test_a_cut_before_the_first_event_leaves_an_empty_log(settings, tmp_path):
    cut = cut_log(settings.workspace.log, tmp_path / "cut", FIRST_AT - timedelta(days=9))
    assert cut.num_kept == 0
    assert (tmp_path / "cut" / "impressions").is_dir()


def test_rows_whose_own_post_changed_since_the_cut_are_told(settings):
    at = END_AT - timedelta(hours=1)
    tables = small_tables(np.random.default_rng(0))
    changed = at + timedelta(minutes=10)
    post = tables["posts"].to_pylist()[3] | {"event_at": changed, "known_at": changed}
    append(settings.workspace.log, "posts", as_table("posts", post), source="test")
    ids = {"user": np.array([1, 1, 1]), "post": np.array([3, 3, 4]), "creator": np.array([3, 3, 4])}
    used_at = at.timestamp() + np.array([60.0, 660.0, 660.0])
    with connect(settings) as connection:
        register_log(connection, settings.workspace.log)
        assert changed_since(connection, at, ids, used_at).tolist() == [False, True, False]
