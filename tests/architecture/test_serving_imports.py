"""The request path stays light: what it loads, directly and in a fresh process."""

import os
import subprocess
import sys

import grimp
import pytest

BUILDER = "serving.snapshot_build"
OFFLINE = ("serving.snapshot_build", "serving.draw_candidates")
"""Modules and packages that only commands use."""
HEAVY = ("duckdb", "great_expectations", "torchrec", "mlflow", "feast.cli")


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph(
        "core",
        "events",
        "feature_repo",
        "models",
        "validation",
        "serving",
        include_external_packages=True,
        cache_dir=None,
    )


def test_only_the_snapshot_builder_imports_duckdb(graph):
    importers = {
        module for module in graph.modules if module.startswith("serving")
        and "duckdb" in graph.find_modules_directly_imported_by(module)
    }  # fmt: skip
    assert importers
    assert {module for module in importers if not module.startswith(f"{BUILDER}.")} == set()
    readers = {
        module for module in graph.find_modules_that_directly_import("events.read") if module.startswith("serving")
    }
    assert readers == {f"{BUILDER}.build", f"{BUILDER}.tables"}


def test_request_path_does_not_import_offline_modules(graph):
    offline = {m for m in graph.modules if m.startswith(OFFLINE)}
    path = {m for m in graph.modules if m.startswith("serving.")} - offline - {"serving.__main__"}
    assert len(offline) > 5
    for module in sorted(path):
        assert not graph.find_modules_directly_imported_by(module) & offline, module


def test_pure_algorithms_depend_on_numpy_alone(graph):
    pure = ("adjust", "arrange", "blending", "candidates", "constraints", "diversity", "draw", "row_cache", "value")
    for name in pure:
        foreign = {
            found for found in graph.find_modules_directly_imported_by(f"serving.funnel.{name}")
            if found.split(".")[0] not in sys.stdlib_module_names and not found.startswith("numpy")
        }  # fmt: skip
        assert foreign <= {f"serving.funnel.{other}" for other in pure}, (name, foreign)


def test_serving_app_loads_nothing_heavy_in_a_fresh_process():
    code = (
        "import sys, serving.app, serving.serve, serving.client\n"
        f"heavy = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "assert 'feast' not in sys.modules, 'feast'\n"
        "assert not heavy, heavy"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == 0, found.stderr[-2000:]


def test_feast_does_not_turn_the_servers_metrics_into_shared_files():
    """Feast sets PROMETHEUS_MULTIPROC_DIR when imported; the client must have chosen its kind of values before."""
    code = (
        "import serving.app, feature_repo.online, os; from prometheus_client import values; "
        "assert 'PROMETHEUS_MULTIPROC_DIR' in os.environ; print(values.ValueClass.__name__)"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("PROMETHEUS_")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == "MutexValue"
