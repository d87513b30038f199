"""`operations refresh` as a scheduler sees it: lines, exit codes, and a loop that outlives a failed round."""

from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from core.errors import FeatureStoreError
from core.workspace import DatasetManifest, Workspace
from operations import __main__ as command
from operations import refresh
from operations.refresh import Refresh

AT = datetime(2026, 3, 1, 6, tzinfo=UTC)
DONE = Refresh(2, (None, AT), 5, AT, 1.25)


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("VITRINE_VAR_DIR", str(tmp_path))
    monkeypatch.setenv("VITRINE_DATASET", "small")
    Workspace(tmp_path / "small").write_manifest(DatasetManifest("small", "world", "v1", AT, AT, AT, {}, {}))


def rounds(monkeypatch, *outcomes):
    """Lets refresh end with each outcome in turn."""
    waiting = list(outcomes)

    def run(*_):
        outcome = waiting.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(refresh, "refresh", run)


def test_the_line_says_what_was_done(monkeypatch):
    rounds(monkeypatch, DONE)
    done = CliRunner().invoke(command.app, ["refresh"])
    assert done.exit_code == 0
    assert done.stdout == (
        "refreshed: 2 events compacted, hours from the beginning to 2026-03-01 06:00 built, 5 rows new to Redis, "
        "as of 2026-03-01 06:00 UTC, 1.2 s\n"
    )


def test_a_failure_is_one_line_and_status_1(monkeypatch):
    rounds(monkeypatch, FeatureStoreError("Redis is full"))
    done = CliRunner().invoke(command.app, ["refresh"])
    assert done.exit_code == 1
    assert done.stderr == "FeatureStoreError: Redis is full\n"


def test_repeated_refreshes_go_on_after_a_failed_one(monkeypatch):
    rounds(monkeypatch, FeatureStoreError("Redis is away"), None, DONE)
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(command.time, "sleep", sleep)
    done = CliRunner().invoke(command.app, ["refresh", "--every", "3600"])
    assert "Redis is away" in done.stderr
    assert "under way" in done.stderr
    assert done.stdout.startswith("refreshed: 2 events")
    assert all(3500 < seconds <= 3600 for seconds in slept)
