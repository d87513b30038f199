"""The embedded Redis: one server per workspace, behind a password, found again, clear when it cannot start."""

import json
import os
import signal
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from core.errors import StoreUnavailableError
from core.settings import Settings
from core.workspace import Workspace
from feature_repo.stores import embedded
from feature_repo.stores.embedded import (
    answers,
    ensure_redis,
    revive_redis,
    running_endpoint,
    save_soon,
    stop_redis,
)


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    made = Settings(var_dir=tmp_path, dataset="small", redis_url=None)
    yield made
    stop_redis(made.workspace)


def test_many_starters_at_once_share_one_server_with_a_password(settings: Settings) -> None:
    with ThreadPoolExecutor(4) as pool:
        urls = set(pool.map(lambda _: ensure_redis(settings.workspace, settings), range(4)))
    assert len(urls) == 1
    url = urls.pop()
    assert answers(url)
    assert "127.0.0.1" in url
    with redis.Redis.from_url(url) as client:
        assert client.config_get("bind")["bind"].split() == ["127.0.0.1"]
    endpoint = running_endpoint(settings.workspace)
    assert endpoint is not None
    assert not answers(f"redis://127.0.0.1:{endpoint.port}/0")  # no entry without the password
    for name in ("endpoint.json", "redis.conf"):
        assert stat.S_IMODE((settings.workspace.redis / name).stat().st_mode) == 0o600


def test_data_and_address_survive_a_stop(settings: Settings) -> None:
    url = ensure_redis(settings.workspace, settings)
    with redis.Redis.from_url(url) as client:
        client.set("kept", "yes")
    assert stop_redis(settings.workspace)
    assert not stop_redis(settings.workspace)
    assert not answers(url)
    assert ensure_redis(settings.workspace, settings) == url
    with redis.Redis.from_url(url) as client:
        assert client.get("kept") == b"yes"


def test_one_that_died_is_started_again_with_what_was_saved_and_one_that_was_stopped_is_not(settings: Settings) -> None:
    workspace = settings.workspace
    assert not revive_redis(workspace, settings)  # there never was one
    url = ensure_redis(workspace, settings)
    assert not revive_redis(workspace, settings)  # it lives
    with redis.Redis.from_url(url) as client:
        client.set("kept", "yes")
        save_soon(workspace)
        saved = embedded._wait_until(lambda: not client.info("persistence")["rdb_bgsave_in_progress"], 10)
        assert saved
    os.kill(_endpoint(workspace).pid, signal.SIGKILL)
    assert embedded._wait_until(lambda: not answers(url), 10)
    save_soon(workspace)  # nobody is there, and that is no error
    assert revive_redis(workspace, settings)
    with redis.Redis.from_url(url) as client:
        assert client.get("kept") == b"yes"
    stop_redis(workspace)
    assert not revive_redis(workspace, settings)
    assert ensure_redis(workspace, settings) == url
    os.kill(_endpoint(workspace).pid, signal.SIGKILL)
    assert embedded._wait_until(lambda: not answers(url), 10)
    assert revive_redis(workspace, settings)


def _endpoint(workspace: Workspace) -> embedded.Endpoint:
    found = running_endpoint(workspace)
    assert found is not None
    return found


def test_two_workspaces_have_two_servers_on_two_ports(settings: Settings, tmp_path: Path) -> None:
    other = Settings(var_dir=tmp_path, dataset="other", redis_url=None)
    try:
        assert ensure_redis(settings.workspace, settings) != ensure_redis(other.workspace, other)
    finally:
        stop_redis(other.workspace)


def test_a_team_server_is_used_as_it_is_and_nothing_is_started(tmp_path: Path) -> None:
    settings = Settings(var_dir=tmp_path, dataset="small", redis_url="redis://:secret@redis.example:6379/3")
    assert ensure_redis(settings.workspace, settings) == "redis://:secret@redis.example:6379/3"
    assert not settings.workspace.redis.exists()


def test_an_endpoint_that_no_longer_answers_is_replaced(settings: Settings) -> None:
    folder = settings.workspace.redis
    folder.mkdir(parents=True)
    (folder / "endpoint.json").write_text(json.dumps({"port": embedded._free_port(), "password": "p", "pid": 1}))
    assert running_endpoint(settings.workspace) is None
    assert answers(ensure_redis(settings.workspace, settings))


def test_a_server_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\necho 'wrong architecture' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(embedded, "redis_binary", lambda: broken)
    with pytest.raises(StoreUnavailableError, match=r"wrong architecture.*VITRINE_REDIS_URL"):
        ensure_redis(Workspace(tmp_path / "small"), Settings(var_dir=tmp_path, dataset="small", redis_url=None))
