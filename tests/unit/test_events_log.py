import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import InputError
from core.schema import TABLES
from events.log import append, count_rows, replace_all, staged

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)


def follows(*rows):
    """Rows of `follows` from (event_id, event_at)."""
    columns = {
        "event_id": [event_id for event_id, _ in rows],
        "user_id": [1] * len(rows),
        "creator_id": [2] * len(rows),
        "is_active": [True] * len(rows),
        "event_at": [at for _, at in rows],
        "known_at": [at for _, at in rows],
    }
    schema = TABLES["follows"].arrow
    return pa.table({f.name: pa.array(columns[f.name], f.type) for f in schema}, schema=schema)


def stored_ids(log_root, table="follows"):
    files = sorted((log_root / table).glob("day=*/*.parquet"))
    return sorted(i for file in files for i in pq.ParquetFile(file).read()["event_id"].to_pylist())


def test_rows_lie_in_the_folder_of_their_utc_day(tmp_path):
    late = datetime(2024, 3, 2, 1, tzinfo=UTC).astimezone()
    report = append(tmp_path, "follows", follows(("b", late), ("a", NOON)), source="test")
    assert report.days == ("2024-03-01", "2024-03-02")
    assert sorted(p.name for p in (tmp_path / "follows").glob("day=*")) == ["day=2024-03-01", "day=2024-03-02"]


def test_files_hold_microsecond_utc_instants_compressed_with_zstd(tmp_path):
    append(tmp_path, "follows", follows(("a", NOON)), source="test")
    (file,) = (tmp_path / "follows").glob("day=*/*.parquet")
    stored = pq.ParquetFile(file)
    column = stored.metadata.row_group(0).column(stored.schema.names.index("event_at"))
    assert column.compression == "ZSTD"
    assert "isAdjustedToUTC=true, timeUnit=microseconds" in str(stored.schema.column(4).logical_type)


def test_appending_a_batch_again_changes_no_file(tmp_path):
    rows = follows(("a", NOON), ("b", NOON + timedelta(days=1)))
    append(tmp_path, "follows", rows, source="test")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.parquet")}
    report = append(tmp_path, "follows", rows, source="other")
    assert (report.num_written, report.num_duplicates) == (0, 2)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.parquet")} == before


def test_an_event_id_enters_once_within_a_batch_between_batches_and_across_days(tmp_path):
    first = append(tmp_path, "follows", follows(("a", NOON), ("a", NOON), ("b", NOON)), source="test")
    second = append(tmp_path, "follows", follows(("c", NOON), ("a", NOON + timedelta(days=3))), source="test")
    assert (first.num_written, first.num_duplicates) == (2, 1)
    assert (second.num_written, second.num_duplicates) == (1, 1)
    assert stored_ids(tmp_path) == ["a", "b", "c"]


def test_an_empty_batch_is_no_error_and_no_file(tmp_path):
    assert append(tmp_path, "follows", follows(), source="test").days == ()
    assert list(tmp_path.rglob("*.parquet")) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns(["creator_id"]), r"table follows, column creator_id: missing; expected int64"),
        (
            lambda t: t.set_column(1, "user_id", pa.array(["x"])),
            r"table follows, column user_id: expected int64, found string",
        ),
        (lambda t: t.set_column(1, "user_id", pa.array([None], pa.int64())), r"column user_id: 1 of 1 values are null"),
        (lambda t: t.append_column("extra", pa.array([1])), r"unexpected columns \['extra'\]"),
        (
            lambda t: t.set_column(4, "event_at", pa.array([NOON], pa.timestamp("ms", "UTC"))),
            r"column event_at: expected timestamp\[us, tz=UTC\], found timestamp\[ms, tz=UTC\]",
        ),
        (
            lambda t: t.set_column(4, "event_at", pa.array([NOON + timedelta(1)], pa.timestamp("us", "UTC"))),
            r"known_at before event_at",
        ),
    ],
)
def test_rows_of_another_shape_are_refused_with_table_and_column(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        append(tmp_path, "follows", change(follows(("a", NOON))), source="test")
    assert list(tmp_path.rglob("*.parquet")) == []


def test_dictionary_encoded_text_and_another_column_order_are_taken(tmp_path):
    rows = follows(("a", NOON))
    rows = rows.set_column(0, "event_id", rows["event_id"].dictionary_encode()).select(reversed(rows.column_names))
    assert append(tmp_path, "follows", rows, source="test").num_written == 1


def test_unknown_table_and_bad_source_name_are_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="no table 'likes'"):
        append(tmp_path, "likes", follows(), source="test")
    with pytest.raises(ValueError, match="source"):
        append(tmp_path, "follows", follows(), source="../x")


def test_a_failing_write_leaves_neither_file_nor_temporary_name(tmp_path, monkeypatch):
    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full_disk)
    with pytest.raises(OSError, match="No space left"):
        append(tmp_path, "follows", follows(("a", NOON)), source="test")
    assert [p for p in tmp_path.rglob("*") if p.is_file() and not p.name.endswith(".lock")] == []


def test_replace_all_drops_the_old_rows(tmp_path):
    append(tmp_path, "follows", follows(("a", NOON), ("b", NOON + timedelta(days=1))), source="test")
    replace_all(tmp_path, "follows", follows(("c", NOON), ("c", NOON)))
    assert stored_ids(tmp_path) == ["c"]
    assert count_rows(tmp_path) == {"follows": 1}
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["follows"]


def test_a_staged_log_replaces_the_old_one_only_when_its_block_ends_well(tmp_path):
    log_root = tmp_path / "log"
    append(log_root, "follows", follows(("old", NOON)), source="test")
    with suppress(RuntimeError), staged(log_root) as staging:
        append(staging, "follows", follows(("new", NOON)), source="test")
        raise RuntimeError
    assert stored_ids(log_root) == ["old"]
    with staged(log_root) as staging:
        append(staging, "follows", follows(("new", NOON)), source="test")
        assert stored_ids(log_root) == ["old"]
    assert stored_ids(log_root) == ["new"]
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["log"]


def test_replacing_works_where_the_system_cannot_swap_names(tmp_path, monkeypatch):
    monkeypatch.setattr("events.swap._exchange", lambda *_: False)
    append(tmp_path, "follows", follows(("a", NOON)), source="test")
    replace_all(tmp_path, "follows", follows(("b", NOON)))
    assert stored_ids(tmp_path) == ["b"]


def test_several_processes_append_at_once_and_no_row_is_lost_or_doubled(tmp_path):
    code = (
        "import sys; sys.path[:0] = [sys.argv[1], sys.argv[2]]\n"
        "from pathlib import Path; from test_events_log import follows, NOON\n"
        "from events.log import append\n"
        "for k in range(5):\n"
        "    rows = follows(*[(f'e{k * 10 + i}', NOON) for i in range(15)])\n"
        "    append(Path(sys.argv[3]), 'follows', rows, source=sys.argv[4])\n"
    )
    here = str(__file__).rpartition("/")[0]
    root = here.rpartition("/tests/")[0]
    runs = [subprocess.Popen([sys.executable, "-c", code, root, here, str(tmp_path), f"p{i}"]) for i in range(2)]
    assert [run.wait() for run in runs] == [0, 0]
    assert stored_ids(tmp_path) == sorted(f"e{i}" for i in range(55))


def test_the_append_side_and_the_journal_do_not_import_duckdb():
    code = "import sys, events.log, events.journal, events.compact; sys.exit('duckdb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
