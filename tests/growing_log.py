"""A log that grows between builds, and what the builds left, for tests of incremental builds."""

import shutil
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq

from core.clock import FrozenClock
from core.schema import TABLES
from core.workspace import DatasetManifest, Workspace
from feature_repo.build import FeatureBuild, build_features
from feature_repo.catalog import VIEWS
from tests.feature_logs import START, SmallLog, settings_of


def write_known(log: SmallLog, workspace: Workspace, after: datetime, until: datetime, is_anchored: bool) -> None:
    """Adds what became known in (after, until] to the log, as one file per table, and moves the data's end."""
    for name, rows in log.tables.items():
        fresh = [r for r in rows if after < r["known_at"] <= until]
        if fresh:
            folder = workspace.log / name / f"day={until:%Y-%m-%d}"
            folder.mkdir(parents=True, exist_ok=True)
            table = pa.Table.from_pylist(fresh, schema=TABLES[name].arrow)
            pq.write_table(table, folder / f"until-{until:%H%M%S%f}.parquet")
    (workspace.log / "impressions").mkdir(parents=True, exist_ok=True)
    anchor = until if is_anchored else None
    workspace.write_manifest(DatasetManifest("small", "world", "v1", anchor, START, until, {}, {}))


def build(workspace: Workspace, at: datetime, **options: object) -> FeatureBuild:
    return build_features(workspace, settings_of(workspace), FrozenClock(at), **options)


def stored(workspace: Workspace) -> dict[str, list[str]]:
    """Rows of every view, floats to the last bit, each with the day it lies in."""
    found: dict[str, list[str]] = {}
    for view in VIEWS:
        files = (workspace.features / view).glob("day=*/*.parquet")
        found[view] = sorted(
            f"{file.parent.name} {row}" for file in files for row in pq.ParquetFile(file).read().to_pylist()
        )
    return found


def from_nothing(workspace: Workspace, at: datetime) -> dict[str, list[str]]:
    shutil.copytree(workspace.root, workspace.root.parent / "whole", ignore=shutil.ignore_patterns("data"))
    whole = Workspace(workspace.root.parent / "whole")
    build(whole, at)
    rows = stored(whole)
    shutil.rmtree(whole.root)
    return rows
