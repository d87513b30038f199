"""The hourly job on a small log with real Feast and Redis."""

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from core.clock import FrozenClock
from core.settings import Settings
from events.journal import Journal, JournalEvent
from events.lock import attempted
from feature_repo.build import build_features
from feature_repo.materialize import materialize
from feature_repo.online import OnlineFeatures
from feature_repo.store import apply_definitions
from feature_repo.stores.embedded import ensure_redis, stop_redis
from operations.__main__ import app
from operations.refresh import refresh
from tests.feature_logs import END, random_log

HOUR = timedelta(hours=1)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),  # from inside Feast, ibis and pandas
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A workspace built, registered and materialised at the data's end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITRINE_VAR_DIR", str(tmp_path_factory.mktemp("var")))
        patch.setenv("VITRINE_DATASET", "small")
        patch.setenv("VITRINE_NUM_THREADS", "1")
        patch.delenv("VITRINE_REDIS_URL", raising=False)
        settings = Settings()
        workspace = random_log(21, num_impressions=100, is_awkward=False).write(Path(settings.var_dir))
        build_features(workspace, settings)
        apply_definitions(workspace)
        ensure_redis(workspace, settings)
        materialize(workspace, FrozenClock(END))
        yield settings
        stop_redis(workspace)


def test_a_second_refresh_of_the_same_workspace_says_so_and_leaves(settings: Settings) -> None:
    with attempted(settings.workspace.data, "refresh") as is_held:
        assert is_held
        done = CliRunner().invoke(app, ["refresh"])
    assert done.exit_code == 3
    assert "under way" in done.stderr


def test_posted_events_reach_redis_and_a_second_run_finds_nothing_new(settings: Settings) -> None:
    reader = OnlineFeatures(settings.workspace)
    before = reader.read("user", np.array([1]))["user_activity__num_impressions_total"][0]
    with Journal(settings.workspace.journal) as journal:
        at = [END + timedelta(minutes=10), END + HOUR + timedelta(minutes=20)]
        journal.append(
            [
                JournalEvent(f"p{n}", "impression", 1, at[n], at[n], post_id=1, creator_id=1, surface="explore")
                for n in range(2)
            ]
        )
    first = refresh(settings, FrozenClock(END))
    assert first is not None
    assert first.num_events == 2
    assert first.hours is not None
    assert first.hours[1] == END + 2 * HOUR
    assert first.as_of >= at[1]  # the data's end moved on, past the clock that was given
    # The first hour was published by then, the second was not.
    assert reader.read("user", np.array([1]))["user_activity__num_impressions_total"][0] == before + 1
    said = CliRunner().invoke(app, ["refresh"])
    assert said.exit_code == 0, said.output
    assert re.search(r"refreshed: 0 events compacted, no new hour, 0 rows new to Redis", said.stdout)


def test_without_data_it_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRINE_VAR_DIR", str(tmp_path))
    done = CliRunner().invoke(app, ["refresh"])
    assert done.exit_code == 1
    assert "make data" in done.stderr
