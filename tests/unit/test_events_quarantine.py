import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.workspace import Workspace
from events.quarantine import quarantine


def test_refused_rows_are_kept_with_the_reason_first(tmp_path):
    path = quarantine(Workspace(tmp_path), "gate", pa.table({"user_id": [1, 2]}), ["null", "late"])
    assert path.parent == tmp_path / "quarantine" / "gate"
    rows = pq.ParquetFile(path).read()
    assert rows.column_names == ["reason", "user_id"]
    assert rows.to_pylist() == [{"reason": "null", "user_id": 1}, {"reason": "late", "user_id": 2}]


def test_refusing_the_same_rows_again_adds_no_file_and_other_rows_do(tmp_path):
    workspace = Workspace(tmp_path)
    first = quarantine(workspace, "gate", pa.table({"a": [1]}), ["x"])
    assert quarantine(workspace, "gate", pa.table({"a": [1]}), pa.array(["x"])) == first
    assert quarantine(workspace, "gate", pa.table({"a": [2]}), ["x"]) != first
    assert len(list(first.parent.iterdir())) == 2


def test_a_row_without_a_reason_is_a_bad_argument(tmp_path):
    with pytest.raises(ValueError, match="2 refused rows but 1 reasons"):
        quarantine(Workspace(tmp_path), "gate", pa.table({"a": [1, 2]}), ["x"])
