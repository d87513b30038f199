"""However a log is cut into builds, the tables are those of one build of everything, bit for bit."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.workspace import Workspace
from feature_repo.build import HourRange
from feature_repo.building import run
from tests.feature_logs import END, START, random_log
from tests.growing_log import build, from_nothing, stored, write_known

HOUR = timedelta(hours=1)


@contextmanager
def workspaces() -> Iterator[Workspace]:
    with tempfile.TemporaryDirectory() as folder:
        yield Workspace(Path(folder) / "small")


minutes = st.integers(60, 12 * 24 * 60).flatmap(lambda m: st.sampled_from([m, m // 60 * 60, m // 60 * 60 + 5]))


@settings(max_examples=4, deadline=None, derandomize=True)
@given(
    st.integers(0, 10**6),
    st.lists(minutes, min_size=1, max_size=3, unique=True),
    st.booleans(),
    st.booleans(),
)
def test_any_cuts_give_the_rows_of_one_build(seed: int, cuts: list[int], is_anchored: bool, is_all_there: bool) -> None:
    log = random_log(seed, num_impressions=60)
    with workspaces() as workspace:
        before = START - timedelta(days=99)
        instants = [START + timedelta(minutes=m) for m in sorted(cuts)]
        if is_all_there:  # the log holds the future too, and only the clock moves
            write_known(log, workspace, before, END + timedelta(days=30), is_anchored=False)
        for at in instants:
            if not is_all_there:
                write_known(log, workspace, before, at, is_anchored)
            build(workspace, at)
            before = at
        assert stored(workspace) == from_nothing(workspace, instants[-1])


@pytest.mark.parametrize("is_anchored", [True, False])
def test_hour_by_hour_over_the_turn_of_a_day_with_few_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_anchored: bool
) -> None:
    monkeypatch.setattr(run, "MAX_CHECKPOINTS", 2)
    log = random_log(31, num_impressions=300)
    workspace = Workspace(tmp_path / "small")
    before = START - timedelta(days=99)
    for number in range(6):
        at = START + timedelta(days=9, hours=21 + number, minutes=0 if is_anchored else 6)
        write_known(log, workspace, before, at, is_anchored)
        built = build(workspace, at)
        assert number == 0 or (built.hours and built.hours[0] and built.hours[1] - built.hours[0] <= HOUR)
        before = at
    assert stored(workspace) == from_nothing(workspace, before)


def test_a_backfill_of_days_one_step_each_brings_back_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "EVENTS_PER_STEP", 1)
    workspace = Workspace(tmp_path / "small")
    write_known(random_log(32, num_impressions=300), workspace, START - timedelta(days=99), END, is_anchored=True)
    build(workspace, END)
    wanted = stored(workspace)
    build(workspace, END, hours=HourRange(START + 30 * HOUR, START + 110 * HOUR))
    assert stored(workspace) == wanted


@settings(max_examples=2, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 250), st.integers(1, 60))
def test_a_backfill_of_any_range_brings_back_the_same_rows(seed: int, first: int, length: int) -> None:
    log = random_log(seed, num_impressions=60)
    with workspaces() as workspace:
        write_known(log, workspace, START - timedelta(days=99), END, is_anchored=True)
        build(workspace, END)
        wanted = stored(workspace)
        since, until = START + first * HOUR, START + min(first + length, 287) * HOUR
        build(workspace, END, hours=HourRange(since, until))
        assert stored(workspace) == wanted
        build(workspace, END, hours=HourRange(since))
        assert stored(workspace) == wanted
