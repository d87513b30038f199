"""Whatever is wrong with which rows, a gate loses none of them."""

import shutil
from collections import Counter

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from core.clock import WallClock
from core.workspace import Workspace
from validation.engine import Engine
from validation.gate import Gate
from validation.rules import Suite, first_of_key, never_null, within
from validation.subjects import number_copies, subject
from validation.tables import Table

SUITE = Suite("things", "things", (never_null("key"), within("value", 0, 10), first_of_key(("key",))), max_failing=1.0)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return Engine(tmp_path_factory.mktemp("docs"))


def all_rows(folder):
    rows = [row for file in sorted(folder.rglob("*.parquet")) for row in pq.ParquetFile(file).read().to_pylist()]
    return Counter((row["key"], row["value"], row["known_at"]) for row in rows)


def clean(engine, workspace, max_rows):
    table = Table.at("things", workspace.log / "things")
    with duckdb.connect() as connection:
        has_copies = number_copies(connection, table, ("key",))
        occurrence = "coalesce(c.occurrence, 1)" if has_copies else "1"
        joined = "LEFT JOIN copies c USING (file_index, file_row_number)" if has_copies else ""
        sql = f"""SELECT r.key, r.value, {occurrence} AS occurrence, r.file_index, r.file_row_number
                  FROM (SELECT *, file_index, file_row_number FROM {table.source_sql}) r {joined}"""
        judged = subject(connection, table, SUITE, sql, max_rows)
    gate = Gate("test", workspace, engine, WallClock().now())
    return gate.clean(SUITE, judged)


keys, values = st.sampled_from([None, 1, 2, 3, 4, 5]), st.sampled_from([None, -1, 0, 5, 10, 11])
things = st.lists(st.tuples(keys, values), max_size=8)


@settings(max_examples=12, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.lists(things, min_size=1, max_size=3), st.sampled_from([1, 5, 1_000]))
def test_rows_in_are_rows_kept_and_rows_quarantined(engine, tmp_path_factory, files, max_rows):
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    place = 0
    for number, rows in enumerate(files):
        folder = workspace.log / "things" / f"day=2024-03-0{number + 1}"
        folder.mkdir(parents=True)
        table = pa.table(
            {
                "key": pa.array([key for key, _ in rows], pa.int64()),
                "value": pa.array([value for _, value in rows], pa.int64()),
                "known_at": pa.array(range(place, place + len(rows)), pa.int64()),
            }
        )
        place += len(rows)
        pq.write_table(table, folder / "rows.parquet")
    before = all_rows(workspace.log)
    num_bad = clean(engine, workspace, max_rows)
    kept, refused = all_rows(workspace.log), all_rows(workspace.quarantine)
    assert kept + refused == before
    assert refused.total() == num_bad

    def is_good(row):
        return row[0] is not None and (row[1] is None or 0 <= row[1] <= 10)

    first_of_each = {row[0]: row for row in sorted(before, key=lambda row: -row[2])}
    assert set(kept) == {row for row in before if is_good(row) and first_of_each[row[0]] == row}
    shutil.rmtree(workspace.root)
