"""A build of what is new: what it computes, what it leaves alone, and what an interruption leaves behind."""

from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from core.errors import InputError
from core.workspace import Workspace
from feature_repo.build import HourRange
from feature_repo.building import partitions, sql, state
from feature_repo.catalog import VIEWS
from tests.feature_logs import END, START, random_log
from tests.growing_log import build, from_nothing, stored, write_known

HOUR = timedelta(hours=1)
AT = START + timedelta(days=6, hours=10)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A log up to AT with its tables; the rest of the log is yet to come."""
    workspace = Workspace(tmp_path / "small")
    write_known(random_log(51, num_impressions=80), workspace, START - timedelta(days=99), AT, is_anchored=True)
    build(workspace, AT)
    return workspace


def grow(workspace: Workspace, hours: int) -> None:
    write_known(random_log(51, num_impressions=80), workspace, AT, AT + hours * HOUR, is_anchored=True)


def files_of(workspace: Workspace) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in workspace.data.rglob("*.parquet")}


def test_an_unchanged_log_builds_nothing(workspace: Workspace) -> None:
    before = files_of(workspace)
    record = (workspace.features / "build.json").read_text()
    built = build(workspace, AT)
    assert built.hours is None
    assert files_of(workspace) == before
    assert (workspace.features / "build.json").read_text() == record
    assert [v.view for v in built.views] == list(VIEWS)


def test_new_hours_leave_the_files_of_earlier_days_alone_and_keep_the_generation(workspace: Workspace) -> None:
    before = {p: at for p, at in files_of(workspace).items() if "_activity/" in p and f"day={AT:%Y-%m-%d}" not in p}
    first = build(workspace, AT)
    grow(workspace, 30)
    built = build(workspace, AT + 30 * HOUR)
    assert built.hours == (AT, AT + 30 * HOUR)  # profiles known at AT itself were not yet published
    assert built.generation == first.generation
    assert before
    assert before.items() <= files_of(workspace).items()
    for view in built.views:
        assert view.rows == pq.read_table(workspace.features / view.view).num_rows


def test_events_that_should_have_been_there_before_are_built_in_and_change_the_generation(workspace: Workspace) -> None:
    first = build(workspace, AT)
    log = random_log(52, num_impressions=20)
    for row in log.tables["impressions"] + log.tables["engagements"]:
        row["event_id"] = f"forgotten-{row['event_id']}"
    forgotten = {n: log.tables[n] for n in ("impressions", "engagements")}
    log.tables = {n: [r for r in rows if r["known_at"] <= AT - 30 * HOUR] for n, rows in forgotten.items()}
    write_known(log, workspace, START - timedelta(days=99), AT, is_anchored=True)
    built = build(workspace, AT)
    assert built.hours is not None
    assert built.generation != first.generation
    assert stored(workspace) == from_nothing(workspace, AT)


@pytest.mark.parametrize("swapped", [0, 1, 4])
def test_an_interrupted_build_runs_again_to_the_same_rows(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, swapped: int
) -> None:
    grow(workspace, 30)
    at = AT + 30 * HOUR
    left = iter(range(swapped))

    def stop(new: Path, old: Path) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        replace(new, old)

    replace = partitions.replace_folder
    monkeypatch.setattr(partitions, "replace_folder", stop)
    with pytest.raises(KeyboardInterrupt):
        build(workspace, at)
    monkeypatch.setattr(partitions, "replace_folder", replace)
    assert build(workspace, at).hours is not None
    assert stored(workspace) == from_nothing(workspace, at)
    assert not [p for p in workspace.features.iterdir() if p.name.startswith(".")]


def test_a_build_interrupted_before_its_record_runs_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(workspace, 2)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(state, "write_atomically", stop)
        with pytest.raises(KeyboardInterrupt):
            build(workspace, AT + 2 * HOUR)
    build(workspace, AT + 2 * HOUR)
    assert stored(workspace) == from_nothing(workspace, AT + 2 * HOUR)


def test_a_changed_definition_builds_everything(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    generation = build(workspace, AT).generation
    monkeypatch.setitem(sql.catalog.PRIOR_RATES, "click", 0.2)
    built = build(workspace, AT)
    assert built.hours == (None, AT)
    assert built.generation != generation


def test_lost_state_builds_everything(workspace: Workspace) -> None:
    next((workspace.data / "feature_state" / "engaged").iterdir()).unlink()
    assert build(workspace, AT).hours == (None, AT)


def test_ranges_that_cannot_be_built_are_refused(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ends before the data does"):
        build(workspace, AT, hours=HourRange(START, END))
    other = Workspace(tmp_path / "other")
    write_known(random_log(51, num_impressions=5), other, START - timedelta(days=99), AT, is_anchored=True)
    with pytest.raises(InputError, match="build all first"):
        build(other, AT, hours=HourRange(START))
