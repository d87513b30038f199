"""What a command's output holds of its libraries' logs."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import logging, sys
from core.logs import configure_logs
configure_logs(sys.argv[1])
feast = logging.getLogger("feast.infra.registry.registry")
feast.info("cache expired")
feast.warning("no registry")
logging.getLogger("other").info("told")
"""


@pytest.mark.parametrize(("level", "is_told"), [("INFO", False), ("DEBUG", True)])
def test_feasts_cache_lines_are_told_at_debug_only_and_its_warnings_always(level: str, is_told: bool) -> None:
    said = subprocess.run([sys.executable, "-c", SCRIPT, level], capture_output=True, text=True, check=True).stderr
    assert ("cache expired" in said) == is_told
    warning, told = said.splitlines()[-2:]
    assert all(part in warning for part in ("warning", "feast.infra.registry.registry", "no registry"))
    assert all(part in told for part in ("info", "other", "told"))


BROKEN = """
import logging
from core.logs import configure_logs, logger
configure_logs("INFO", "json")
for tell in (logging.getLogger("library").exception, logger("room").exception):
    try:
        int("what the client sent")
    except ValueError:
        tell("broke")
"""


def test_a_traceback_is_frames_and_a_type_without_the_message() -> None:
    said = subprocess.run([sys.executable, "-c", BROKEN], capture_output=True, text=True, check=True).stderr
    lines = [json.loads(line) for line in said.splitlines()]
    assert [(line["event"], line["level"], line["error"]) for line in lines] == [("broke", "error", "ValueError")] * 2
    assert all(line["frames"][-1].endswith("<module>") for line in lines)
    assert "client sent" not in said
