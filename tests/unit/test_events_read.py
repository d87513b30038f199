from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from core.schema import TABLES
from core.settings import Settings
from events.describe import describe_log
from events.log import append
from events.read import connect, latest, register_log, sql_type

AT = datetime(2024, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path):
    return Settings(var_dir=tmp_path, dataset="shop", num_threads=1)


def follow(event_id, creator_id, is_active, at):
    schema = TABLES["follows"].arrow
    values = (event_id, 1, creator_id, is_active, at, at)
    return pa.table({f.name: pa.array([v], f.type) for f, v in zip(schema, values, strict=True)}, schema=schema)


def test_every_table_is_a_view_of_its_declared_columns_even_without_files(settings):
    with connect(settings) as connection:
        register_log(connection, settings.workspace.log)
        for schema in TABLES.values():
            described = connection.sql(f"DESCRIBE {schema.name}").fetchall()
            wanted = [
                (c.name, sql_type(c.type).replace("TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE")) for c in schema.columns
            ]
            assert [(row[0], row[1]) for row in described] == wanted
            assert connection.sql(f"SELECT count(*) FROM {schema.name}").fetchall() == [(0,)]


def test_views_have_the_same_types_with_files_and_without(settings):
    with connect(settings) as connection:
        register_log(connection, settings.workspace.log)
        empty = connection.sql("DESCRIBE follows").fetchall()
        append(settings.workspace.log, "follows", follow("a", 2, True, AT), source="test")
        register_log(connection, settings.workspace.log)
        assert connection.sql("DESCRIBE follows").fetchall() == empty
        assert connection.sql("SELECT event_id, event_at FROM follows").fetchall() == [("a", AT)]


def test_a_view_sees_rows_appended_after_it_was_made(settings):
    append(settings.workspace.log, "follows", follow("a", 2, True, AT), source="test")
    with connect(settings) as connection:
        register_log(connection, settings.workspace.log)
        append(settings.workspace.log, "follows", follow("b", 2, True, AT + timedelta(days=2)), source="test")
        assert connection.sql("SELECT count(*) FROM follows").fetchall() == [(2,)]


def test_latest_keeps_the_last_word_of_each_user_on_each_creator(settings):
    log_root = settings.workspace.log
    append(log_root, "follows", follow("a", 2, True, AT), source="test")
    append(log_root, "follows", follow("b", 2, False, AT + timedelta(days=1)), source="test")
    append(log_root, "follows", follow("c", 3, True, AT), source="test")
    with connect(settings) as connection:
        register_log(connection, log_root)
        view = latest(connection, "follows")
        rows = connection.sql(f"SELECT creator_id, is_active FROM {view} ORDER BY creator_id").fetchall()
    assert rows == [(2, False), (3, True)]


def test_latest_of_events_is_a_bad_argument(settings):
    with connect(settings) as connection, pytest.raises(ValueError, match="has no latest row"):
        latest(connection, "impressions")


def test_a_half_written_file_is_no_part_of_a_view(settings):
    append(settings.workspace.log, "follows", follow("a", 2, True, AT), source="test")
    (settings.workspace.log / "follows" / "day=2024-03-01" / ".x.writing").write_bytes(b"PAR1 half")
    with connect(settings) as connection:
        register_log(connection, settings.workspace.log)
        assert connection.sql("SELECT count(*) FROM follows").fetchall() == [(1,)]


def test_describe_tells_rows_days_and_span(settings):
    append(settings.workspace.log, "follows", follow("a", 2, True, AT), source="test")
    append(settings.workspace.log, "follows", follow("b", 2, True, AT + timedelta(days=2)), source="test")
    follows = next(s for s in describe_log(settings) if s.table == "follows")
    assert (follows.num_rows, follows.num_days) == (2, 2)
    assert (follows.first_event_at, follows.last_event_at) == (AT, AT + timedelta(days=2))
