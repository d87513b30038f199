"""The room's commands as a user types them."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from core.workspace import Workspace
from events.journal import Journal, JournalEvent

ROOT = Path(__file__).parents[2]
AT = datetime(2024, 5, 1, 10, tzinfo=UTC)


def run(tmp_path, *arguments):
    environment = os.environ | {"VITRINE_VAR_DIR": str(tmp_path / "var"), "VITRINE_DATASET": "shop", "COLUMNS": "160"}
    return subprocess.run(
        [sys.executable, "-m", "events", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def write_shop(tmp_path):
    (tmp_path / "views.csv").write_text("who,what,at\nann,hat,2024-05-01T10:00:00Z\nann,hat,never\n")
    mapping = "impressions: {file: views.csv, columns: {user_id: who, post_id: what, event_at: at}}\n"
    (tmp_path / "mapping.yaml").write_text(mapping)
    return "--mapping", str(tmp_path / "mapping.yaml"), "--data-dir", str(tmp_path)


def test_from_a_dry_run_to_the_import_the_journal_and_the_description(tmp_path):
    options = write_shop(tmp_path)
    dry = run(tmp_path, "import-own", *options, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "event_at: not an instant (iso)" in dry.stdout
    assert "views.csv row 2: user_id=ann, post_id=hat, event_at=never" in dry.stdout
    assert not (tmp_path / "var").exists()

    assert run(tmp_path, "import-own", *options).returncode == 0
    workspace = Workspace(tmp_path / "var" / "shop")
    with Journal(workspace.journal) as journal:
        journal.append([JournalEvent("e1", "like", 1, AT, AT, post_id=2, creator_id=3)])
    compacted = run(tmp_path, "compact")
    assert "1 journal events, 0 refused" in compacted.stdout, compacted.stderr
    described = run(tmp_path, "describe")
    assert described.returncode == 0, described.stderr
    assert "2024-05-01 10:00" in described.stdout
    assert workspace.manifest().rows["engagements"] == 1


def test_an_expected_error_is_one_line_and_no_traceback(tmp_path):
    for arguments, words in (
        (("describe",), "run `make data DATASET=shop` first"),
        (("import-kuairand", "--data-dir", str(tmp_path / "none")), "no such folder"),
        (("import-own", "--mapping", str(tmp_path / "m.yaml"), "--data-dir", str(tmp_path)), "no such mapping file"),
    ):
        result = run(tmp_path, *arguments)
        assert result.returncode == 1
        assert words in result.stderr
        assert result.stderr.strip().startswith("error: ")
        assert "Traceback" not in result.stderr
