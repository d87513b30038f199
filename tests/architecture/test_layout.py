"""What the house promises about itself: rooms, sizes, documents."""

import ast
import re
import statistics
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("core", "events", "feature_repo", "models", "training", "validation", "serving", "operations")
SOURCES = [p for room in ROOMS for p in (ROOT / room).rglob("*.py") if "data" not in p.parts]


def test_the_mlflow_folder_holds_configuration_only():
    assert not list((ROOT / "mlflow").rglob("*.py"))


def test_the_mlflow_library_wins_over_the_folder():
    import mlflow

    assert "site-packages" in (mlflow.__file__ or "")


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_says_in_one_line_what_it_is(room):
    docstring = ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text()))
    assert docstring


def test_no_drawer_modules():
    assert not [p for p in SOURCES if p.stem in {"utils", "util", "common", "helpers", "lib", "misc"}]


def test_files_stay_small():
    lengths = {p: len(p.read_text().splitlines()) for p in SOURCES}
    assert not {p: n for p, n in lengths.items() if n > 600}
    assert statistics.median(lengths.values()) < 200


def test_environment_is_read_in_settings_only():
    readers = [p for p in SOURCES if re.search(r"\bos\.(environ|getenv)\b", p.read_text())]
    assert readers == []


def test_the_wall_clock_is_read_in_the_clock_only():
    pattern = re.compile(r"datetime\.(now|utcnow|today)\(|\btime\.time\(|Timestamp\.now\(|date\.today\(")
    readers = [p for p in SOURCES if p.name != "clock.py" and pattern.search(p.read_text())]
    assert readers == []


def test_nothing_unpickles():
    pattern = re.compile(
        r"^\s*(import|from) (pickle|dill|cloudpickle|joblib)\b|torch\.(load|save)\(|allow_pickle=True", re.M
    )
    assert [p for p in SOURCES if pattern.search(p.read_text())] == []


def test_mlflow_is_imported_in_the_tracking_module_only():
    pattern = re.compile(r"^\s*(import|from) mlflow\b", re.M)
    importers = [p.relative_to(ROOT).as_posix() for p in SOURCES if pattern.search(p.read_text())]
    assert importers == ["training/tracking.py"]


def test_only_operations_asks_the_truth():
    pattern = re.compile(r"events\.synthetic\.truth|from events\.synthetic import .*[Tt]ruth")
    allowed = {"operations", "events"}
    askers = [p for p in SOURCES if pattern.search(p.read_text()) and p.relative_to(ROOT).parts[0] not in allowed]
    assert askers == []


def _tracked_text_files():
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return [
        ROOT / n for n in names if (ROOT / n).suffix in {".py", ".md", ".yaml", ".toml", ".sql", ".html", ".js", ""}
    ]


def test_no_file_names_a_path_of_somebodys_machine():
    pattern = re.compile(r"(^|[^\w.])/(work|root|home/\w+)/")
    assert [p for p in _tracked_text_files() if p.exists() and pattern.search(p.read_text(errors="ignore"))] == []
