"""The guide's own files and mapping, imported as printed, give exactly the rows kept beside this test."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from core.settings import Settings
from events.importers.own import import_own
from events.read import connect, register_log

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "own-data.md"
GOLDEN = Path(__file__).parent / "events_own_guide.json"
TABLES = ("users", "creators", "posts", "follows", "requests", "impressions", "engagements")


@pytest.fixture
def imported(tmp_path):
    for name, block in re.findall(r"^`([\w.]+)`:.*?^```\w+\n(.*?)^```", GUIDE.read_text(), re.S | re.M):
        (tmp_path / name).write_text(block)
    settings = Settings(var_dir=tmp_path / "var", dataset="shop", num_threads=1)
    import_own(tmp_path / "mapping.yaml", tmp_path, settings.workspace, datetime(2024, 6, 1, tzinfo=UTC))
    return settings


def rows_of(settings):
    with connect(settings) as connection:
        register_log(connection, settings.workspace.log)
        rows = {}
        for table in TABLES:
            relation = connection.sql(f"SELECT * FROM {table}")
            named = [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]
            plain = [{k: v.isoformat() if isinstance(v, datetime) else v for k, v in row.items()} for row in named]
            rows[table] = sorted(plain, key=lambda row: json.dumps(row, sort_keys=True))
    return rows


def test_the_guides_example_gives_the_golden_log(imported):
    assert rows_of(imported) == json.loads(GOLDEN.read_text())


def test_the_guides_example_refuses_the_two_rows_that_the_guide_tells(imported):
    (file,) = (imported.workspace.quarantine / "import").glob("*.parquet")
    rows = pq.ParquetFile(file).read().to_pylist()
    assert sorted((row["file"], row["row"], row["reason"]) for row in rows) == [
        ("actions.csv", 6, "event_at: engagement before its impression"),
        ("views.csv", 6, "user_id: null"),
    ]
