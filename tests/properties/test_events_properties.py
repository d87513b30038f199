import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from core.schema import TABLES
from events.importers.batch import Batch, TimeFormat
from events.importers.keys import occurrences, positions_in
from events.importers.kuairand_codes import IMPUTED_END, IMPUTED_START
from events.importers.kuairand_events import imputed_instants
from events.importers.source_files import BROKEN, FILE, ROW, TextRows
from events.log import append

START = datetime(2024, 3, 1, tzinfo=UTC)
IDS = st.integers(0, 12)


def follows(ids):
    """One row per id; the id alone decides the rest, as a resent event is the same event."""
    schema = TABLES["follows"].arrow
    at = [START + timedelta(hours=7 * i) for i in ids]
    columns = [[f"e{i}" for i in ids], list(ids), [1] * len(ids), [True] * len(ids), at, at]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(IDS, max_size=8), max_size=6))
def test_any_batches_in_any_order_with_any_repeats_leave_each_event_once(batches):
    with tempfile.TemporaryDirectory() as folder:
        reports = [append(Path(folder), "follows", follows(ids), source="test") for ids in batches]
        files = sorted(Path(folder).rglob("*.parquet"))
        stored = [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]
        days = {row["event_id"]: file.parent.name for file in files for row in pq.ParquetFile(file).read().to_pylist()}
    every = {i for ids in batches for i in ids}
    assert sorted(row["user_id"] for row in stored) == sorted(every)
    assert sum(r.num_written for r in reports) == len(every)
    assert sum(r.num_offered for r in reports) == sum(r.num_written + r.num_duplicates for r in reports)
    assert all(days[row["event_id"]] == f"day={row['event_at']:%Y-%m-%d}" for row in stored)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=40))
def test_occurrences_count_earlier_equal_rows(rows):
    keys = [np.array([row[k] for row in rows], np.int64) for k in (0, 1)]
    assert occurrences(*keys).tolist() == [rows[:i].count(row) for i, row in enumerate(rows)]


@given(st.lists(IDS, max_size=20), st.sets(IDS, max_size=10))
def test_positions_point_at_the_id_or_say_absent(wanted, known):
    ids = list(known)
    places = positions_in(np.array(wanted, np.int64), np.array(ids, np.int64))
    assert places.tolist() == [ids.index(w) if w in ids else -1 for w in wanted]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 900)), min_size=1, max_size=60, unique=True))
def test_imputed_instants_keep_each_users_order_within_the_imputed_days(rows):
    users, places = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    at = imputed_instants(users, places)
    assert (at >= IMPUTED_START.timestamp() * 1e6).all()
    assert (at < IMPUTED_END.timestamp() * 1e6).all()
    for user in set(users.tolist()):
        mine = np.flatnonzero(users == user)
        assert (np.diff(at[mine[np.argsort(places[mine])]]) > 0).all()


def batch_of(texts):
    rows = {"a": pa.array(texts, pa.string()), FILE: ["f"] * len(texts), ROW: list(range(1, len(texts) + 1))}
    return Batch("t", TextRows(pa.table(rows), BROKEN.empty_table()))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.one_of(st.none(), st.text(max_size=12), st.integers().map(str), st.floats().map(str)), max_size=12))
def test_any_text_is_taken_as_a_number_or_refused_and_never_raises(texts):
    for read in (
        lambda b: b.integers("a"),
        lambda b: b.numbers("a"),
        lambda b: b.flags("a"),
        lambda b: b.instants("a", TimeFormat()),
        lambda b: b.instants("a", TimeFormat("unix_ms")),
        lambda b: b.instants("a", TimeFormat("%d/%m/%Y", "Europe/Paris")),
        lambda b: b.vectors("a"),
    ):
        batch = batch_of(texts)
        values = read(batch)
        assert len(values) == len(texts)
        is_taken = values.is_valid().to_numpy(False)
        is_null = np.array([text is None for text in texts], bool)
        assert (batch.is_kept == (is_taken | is_null)).all()
        assert batch.refused().num_rows == int((~batch.is_kept).sum())
