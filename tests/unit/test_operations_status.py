"""`operations status` on workspaces in every state, broken ones included."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from core.settings import Settings
from core.workspace import DatasetManifest
from operations.__main__ import app
from operations.status import workspace_status

END = datetime(2026, 3, 15, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path):
    return Settings(var_dir=tmp_path, dataset="world", redis_port=16399)


def write_data(settings, data_version="v1"):
    workspace = settings.workspace
    workspace.write_manifest(
        DatasetManifest(
            "world", "world", data_version, END, END - timedelta(days=14), END, {"posts": 3}, {"scale": 0.1}
        )
    )
    (workspace.log / "posts" / "day=2026-03-14").mkdir(parents=True)


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_bundle(settings, kind, bundle_id, data_version="v1", metrics=None):
    folder = settings.workspace.bundles / kind
    write_json(folder / "champion.json", {"bundle_id": bundle_id})
    write_json(
        folder / bundle_id / "manifest.json",
        {"metrics": metrics or {}, "versions": {"data_version": data_version}},
    )


def write_index(settings, bundle_id):
    write_json(settings.workspace.index / "champion.json", {"index_id": "i1"})
    write_json(
        settings.workspace.index / "i1" / "manifest.json",
        {"index_id": "i1", "bundle_id": bundle_id, "count": 7, "dim": 4, "built_at": "2026-03-15T00:00:00+00:00"},
    )


def item(settings, area, what):
    found = {i.what: i for i in workspace_status(settings).areas[area]}
    assert what in found, f"{what} not among {sorted(found)}"
    return found[what]


def test_an_empty_workspace_names_the_command_for_everything(settings):
    status = workspace_status(settings)
    remedies = {i.remedy for items in status.areas.values() for i in items if i.state == "missing"}
    assert {"make data", "make validate", "make features", "make sets", "make retrieval", "make index"} <= remedies
    assert not any("Error" in i.value for items in status.areas.values() for i in items)


def test_data_show_span_scale_and_anchored_now(settings):
    write_data(settings)
    assert "scale 0.1" in item(settings, "data", "dataset").value
    assert item(settings, "data", "span").value == "2026-03-01 00:00 to 2026-03-15 00:00"
    assert item(settings, "data", "platform now").value.startswith("2026-03-15 00:00, anchored")
    assert item(settings, "data", "posts").value == "3 rows, 1 days to 2026-03-14"


def test_a_table_without_its_files_is_degraded(settings):
    write_data(settings)
    (settings.workspace.log / "posts" / "day=2026-03-14").rmdir()
    assert item(settings, "data", "posts").state == "degraded"


def test_a_feature_table_shows_its_newest_event_and_known_time_and_age(settings):
    write_data(settings)
    folder = settings.workspace.features / "user_activity" / "day=2026-03-14"
    folder.mkdir(parents=True)
    at = [END - timedelta(hours=5), END - timedelta(hours=3)]
    rows = {
        "user_id": [1, 2],
        "history": [[1], [2, 3]],
        "event_at": at,
        "known_at": [t + timedelta(minutes=5) for t in at],
    }
    pq.write_table(pa.table(rows), folder / "part.parquet")
    assert item(settings, "features", "user_activity").value == (
        "2 rows, to 2026-03-14 21:00, age 3.0 h, known 2026-03-14 21:05"
    )


def test_an_empty_feature_table_is_degraded(settings):
    write_data(settings)
    (settings.workspace.features / "user_activity").mkdir(parents=True)
    assert item(settings, "features", "user_activity").state == "degraded"


def test_a_champion_shows_its_main_metrics(settings):
    write_data(settings)
    write_bundle(settings, "second_stage", "abc123", metrics={"auc_click": 0.7512, "rows": 5})
    found = item(settings, "models", "second_stage")
    assert found.state == "ok"
    assert "abc123" in found.value
    assert "auc_click 0.751" in found.value


def test_a_champion_trained_on_other_data_is_degraded(settings):
    write_data(settings, data_version="v2")
    write_bundle(settings, "retrieval", "abc123", data_version="v1")
    assert item(settings, "models", "retrieval").state == "degraded"


def test_a_champion_whose_folder_is_gone_is_degraded(settings):
    write_data(settings)
    write_json(settings.workspace.bundles / "retrieval" / "champion.json", {"bundle_id": "gone"})
    assert item(settings, "models", "retrieval").state == "degraded"


def test_an_index_of_another_model_is_degraded(settings):
    write_data(settings)
    write_bundle(settings, "retrieval", "new")
    write_index(settings, "old")
    found = item(settings, "index", "index")
    assert found.state == "degraded"
    assert found.remedy == "make index"


def test_an_index_of_the_champion_matches(settings):
    write_data(settings)
    write_bundle(settings, "retrieval", "new")
    write_index(settings, "new")
    assert item(settings, "index", "index").state == "ok"


def test_a_refused_gate_is_degraded_and_says_why(settings):
    write_data(settings)
    entry = {"status": "refused", "ran_at": END.isoformat(), "num_rows": 9, "num_quarantined": 2, "refusal": "too old"}
    write_json(settings.workspace.docs / "gates.json", {"events": entry})
    found = item(settings, "gates", "events")
    assert found.state == "degraded"
    assert "too old" in found.value


@pytest.mark.parametrize(("ok", "state"), [(True, "ok"), (False, "degraded")])
def test_the_last_skew_audit_says_whether_it_was_accepted(settings, ok, state):
    assert item(settings, "skew", "skew").remedy == "make skew"
    report = {"ok": ok, "share": 0.25, "num_values": 4000, "causes": {"unexplained": 7}}
    write_json(settings.workspace.reports / "skew.json", report)
    found = item(settings, "skew", "skew")
    assert found.state == state
    assert found.value.startswith("25.000% of 4,000 values differ, 7 without a cause")


def test_quarantined_rows_are_counted_per_gate(settings):
    folder = settings.workspace.quarantine / "events"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"reason": ["a", "b"]}), folder / "1.parquet")
    pq.write_table(pa.table({"reason": ["c"]}), folder / "2.parquet")
    assert item(settings, "quarantine", "events").value.startswith("3 rows")


@pytest.mark.parametrize(
    ("path", "area"),
    [
        ("dataset.json", "data"),
        ("docs/gates.json", "gates"),
        ("bundles/retrieval/champion.json", "models"),
        ("index/champion.json", "index"),
        ("snapshot/current.json", "snapshot"),
        ("training_sets/x/manifest.json", "training sets"),
        ("reports/closed_loop.json", "evaluation"),
        ("reports/skew.json", "skew"),
        ("journal.db", "journal"),
    ],
)
@pytest.mark.parametrize("content", ["{", "[]", "{}", "\0\1"])
def test_a_damaged_file_becomes_a_row_and_no_crash(settings, path, area, content):
    write_data(settings)
    target = settings.workspace.root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(content)
    status = workspace_status(settings)
    if (path, content) not in [("docs/gates.json", "{}")]:
        assert any(name.startswith(area) for name in status.degraded), status.areas[area]


def test_the_command_prints_a_table_and_json(tmp_path, monkeypatch):
    monkeypatch.setenv("VITRINE_VAR_DIR", str(tmp_path))
    shown = CliRunner().invoke(app, ["status"])
    assert shown.exit_code == 0
    assert "make data" in shown.stdout
    found = json.loads(CliRunner().invoke(app, ["status", "--json"]).stdout)
    assert "data: world" in found["missing"]


def test_status_imports_nothing_that_takes_seconds():
    code = (
        "import sys, operations.__main__, operations.status\n"
        "heavy = {'feast', 'mlflow', 'torch', 'duckdb', 'faiss', 'pandas', 'great_expectations', 'matplotlib'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
