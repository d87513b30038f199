"""Documents that would rot without a test."""

import re
from pathlib import Path

import pytest

from core.settings import Settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / n for n in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)


def make_targets():
    return set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_documented(name):
    variable = Settings.model_fields[name].validation_alias or f"VITRINE_{name.upper()}"
    assert f"`{variable}`" in (ROOT / "docs/guides/settings.md").read_text()
    assert Settings.model_fields[name].description


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_between_documents_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_make_targets_in_documents_exist(path):
    for target in re.findall(r"`make ([a-z-]+)", path.read_text()):
        assert target in make_targets(), f"{path.name} names `make {target}`"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_python_files_named_in_documents_exist(path):
    rooms = "core|events|feature_repo|models|training|validation|serving|operations|tests|benchmarks"
    for name in re.findall(rf"`((?:{rooms})/[\w/]+\.(?:py|yaml|sql))`", path.read_text()):
        assert (ROOT / name).exists(), f"{path.name} names {name}"


def test_decisions_are_numbered_without_gaps():
    numbers = sorted(int(p.name[:4]) for p in (ROOT / "docs/decisions").glob("*.md"))
    assert numbers == list(range(1, len(numbers) + 1))
