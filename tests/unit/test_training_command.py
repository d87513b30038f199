"""The command line: deliberate errors are one message and exit code 1."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from training.__main__ import app


@pytest.mark.parametrize("command", ["sets", "retrieval", "second-stage", "first-stage", "index", "evaluate"])
def test_without_data_each_command_says_what_to_run(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VITRINE_VAR_DIR", str(tmp_path))
    found = CliRunner().invoke(app, [command])
    assert found.exit_code == 1
    assert found.exception is None or isinstance(found.exception, SystemExit)
    assert not (tmp_path / "world" / "mlflow.db").exists()


def test_the_room_starts_without_its_heavy_libraries() -> None:
    import subprocess
    import sys

    code = (
        "import sys, training.__main__; print([m for m in ('torch', 'feast', 'mlflow', 'duckdb') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
