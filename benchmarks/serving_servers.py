"""Servers of the benchmark as processes of their own, and what they cost: processor time and memory from /proc.

python -m benchmarks.serving_servers empty|stock PORT WORKERS
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from benchmarks.serving_load import Outcome, Plan
from tests.redis_servers import free_ports

START_SECONDS = 180.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Server:
    """A running server and its processes."""

    port: int
    parent: int

    @property
    def processes(self) -> list[int]:
        """The parent and those it forked."""
        children = Path(f"/proc/{self.parent}/task/{self.parent}/children").read_text().split()
        return [self.parent, *map(int, children)]


@contextmanager
def running(kind: str, workers: int, env: Mapping[str, str], probe: str) -> Iterator[Server]:
    """A server of one kind (`ours`, `empty` or `stock`) that answers `probe`, gone with the block."""
    port = free_ports(1)[0]
    command = [sys.executable, "-m", "benchmarks.serving_servers", kind, str(port), str(workers)]
    if kind == "ours":
        command = [sys.executable, "-m", "serving", "serve", "--port", str(port), "--workers", str(workers)]
    # Feast's import here asks every child for metrics in shared files, which no server started by hand has.
    inherited = {name: value for name, value in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
    process = subprocess.Popen(command, env={**inherited, **env}, stdout=subprocess.DEVNULL)
    try:
        _wait(process, port, probe)
        yield Server(port, process.pid)
    finally:
        process.terminate()
        process.wait(60)


def _wait(process: "subprocess.Popen[bytes]", port: int, probe: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"the server ended with status {process.returncode} before it answered")
        try:
            if httpx.get(f"http://127.0.0.1:{port}{probe}", timeout=30).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise SystemExit(f"no answer on port {port} after {START_SECONDS:.0f} s")


def asked(plan: Plan) -> Outcome:
    """What the load generator saw; a process of its own."""
    command = [sys.executable, "-m", "benchmarks.serving_load"]
    done = subprocess.run(command, input=json.dumps(asdict(plan)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the load generator failed: {done.stderr[-2000:]}")
    outcome = Outcome(**json.loads(done.stdout))
    if outcome.num_errors:
        raise SystemExit(f"{outcome.num_errors} of {outcome.num_answers} answers were errors; nothing was measured")
    return outcome


def cpu_seconds(processes: Sequence[int]) -> float:
    """Processor time that the processes have used so far, of user and system."""
    total = 0
    for process in processes:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def memory_mb(process: int) -> dict[str, float]:
    """`pss` and `own` (pages that no other process has) of a process, megabytes."""
    fields: dict[str, int] = {}
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, size = line.partition(":")
        fields[name] = int(size.split()[0])
    return {"pss": fields["Pss"] / 1024, "own": (fields["Private_Clean"] + fields["Private_Dirty"]) / 1024}


def _serve_empty(listener: socket.socket) -> None:
    import uvicorn
    from fastapi import FastAPI
    from fastapi.responses import Response

    from core.settings import Settings
    from serving.serve import uvicorn_config

    app = FastAPI()

    @app.get("/empty")
    async def empty() -> Response:
        return Response()

    uvicorn.Server(uvicorn_config(app, Settings())).run([listener])


def _serve_stock(listener: socket.socket) -> None:
    from benchmarks.serving_stock import StockReader
    from core.settings import Settings
    from serving.serve import serve_one

    settings = Settings()
    serve_one(settings, listener, reader=StockReader(settings.workspace))


if __name__ == "__main__":
    from serving.workers import run_workers

    serve = {"empty": _serve_empty, "stock": _serve_stock}[sys.argv[1]]
    run_workers(int(sys.argv[3]), "127.0.0.1", int(sys.argv[2]), serve)
