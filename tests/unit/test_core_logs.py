"""What a command's output holds of its libraries' logs."""

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
    assert "WARNING feast.infra.registry.registry no registry" in said
    assert "INFO other told" in said
