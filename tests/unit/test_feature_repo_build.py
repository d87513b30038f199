"""Building the feature tables: atomic, repeatable, clear about what is missing."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from core.errors import FeatureStoreError, MissingStageError
from core.workspace import Workspace
from feature_repo.build import build_features, read_build
from feature_repo.building import run
from feature_repo.catalog import ALL_VIEWS, VIEWS
from feature_repo.describe import describe_markdown, describe_table
from feature_repo.link import link_workspace
from tests.feature_logs import random_log, settings_of


def test_every_table_has_the_columns_of_the_catalogue_and_says_what_it_holds(tmp_path: Path) -> None:
    workspace = random_log(41, num_impressions=30).write(tmp_path)
    built = build_features(workspace, settings_of(workspace))
    assert [v.view for v in built.views] == list(VIEWS)
    for view, written in zip(VIEWS.values(), built.views, strict=True):
        table = pq.read_table(workspace.features / view.name, partitioning=None)
        assert table.column_names == list(view.columns)
        assert table.num_rows == written.rows > 0
        assert str(table.schema.field("event_at").type) == "timestamp[us, tz=UTC]"
    assert describe_table(workspace).row_count == len(ALL_VIEWS) + 1


def test_a_second_build_writes_the_same_rows_and_keeps_its_generation(tmp_path: Path) -> None:
    workspace = random_log(42, num_impressions=40).write(tmp_path)
    settings = settings_of(workspace)
    first = build_features(workspace, settings)
    before = {v: sorted(map(str, pq.read_table(workspace.features / v).to_pylist())) for v in VIEWS}
    second = build_features(workspace, settings)
    assert first.generation == second.generation
    for view, rows in before.items():
        assert sorted(map(str, pq.read_table(workspace.features / view).to_pylist())) == rows
    assert not [p for p in workspace.features.iterdir() if p.name.startswith(".")]


def test_a_log_of_users_and_posts_alone_gives_typed_empty_tables(tmp_path: Path) -> None:
    log = random_log(43, num_impressions=1)
    log.tables["impressions"].clear()
    log.tables["engagements"].clear()
    workspace = log.write(tmp_path)
    built = build_features(workspace, settings_of(workspace))
    rows = {v.view: v.rows for v in built.views}
    assert rows["user_activity"] == rows["user_history"] == 0
    assert rows["user_profile"] > 0
    empty = pq.read_table(workspace.features / "user_activity", partitioning=None)
    assert empty.column_names == list(VIEWS["user_activity"].columns)


def test_the_length_of_a_step_does_not_change_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = random_log(44, num_impressions=80).write(tmp_path)
    build_features(workspace, settings_of(workspace))
    whole = sorted(map(str, pq.read_table(workspace.features / "post_activity").to_pylist()))
    monkeypatch.setattr(run, "EVENTS_PER_STEP", 1)
    build_features(workspace, settings_of(workspace), is_full=True)
    assert sorted(map(str, pq.read_table(workspace.features / "post_activity").to_pylist())) == whole


def test_a_failing_build_leaves_the_tables_as_they_were(tmp_path: Path) -> None:
    workspace = random_log(45, num_impressions=20).write(tmp_path)
    settings = settings_of(workspace)
    build_features(workspace, settings)
    before = pq.read_table(workspace.features / "user_activity").num_rows
    (workspace.log / "engagements" / "day=2026-03-01" / "rows.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(FeatureStoreError, match="left as they were"):
        build_features(workspace, settings)
    assert pq.read_table(workspace.features / "user_activity").num_rows == before


def test_what_is_missing_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "small")
    with pytest.raises(MissingStageError, match="make data"):
        build_features(workspace, settings_of(workspace))
    with pytest.raises(MissingStageError, match="feature_repo build"):
        read_build(workspace)
    assert describe_table(workspace).row_count == len(ALL_VIEWS) + 1


def test_the_feature_reference_names_every_feature() -> None:
    text = describe_markdown()
    assert all(f"`{f.name}`" in text for v in ALL_VIEWS.values() for f in v.fields)
    committed = Path(__file__).parents[2] / "docs" / "features.md"
    assert committed.read_text() == text, "run `python -m feature_repo describe --output docs/features.md`"


def test_the_link_follows_the_workspace_and_never_replaces_a_folder(tmp_path: Path) -> None:
    link = tmp_path / "data"
    for name in ("one", "two", "two"):
        workspace = Workspace(tmp_path / name)
        assert link_workspace(workspace, link).resolve() == workspace.data.resolve()
    link.unlink()
    link.mkdir()
    with pytest.raises(Exception, match="is a folder"):
        link_workspace(Workspace(tmp_path / "one"), link)
