"""A workspace with everything that serving loads: real bundles with weights of chance, index, vectors, features in
Redis; and the server as a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import torch

from core.files import file_hash, write_atomically
from core.schema import HEADS
from core.settings import Settings
from core.signatures import sign_folder
from feature_repo.catalog import ALL_VIEWS, ENTITY_VIEWS, JOIN_KEYS
from models.ann import publish_index, write_index
from models.bundle import load_bundle, save_bundle
from models.calibration import Calibrator
from models.features import Feature, fit_spec
from models.first_stage import FirstStageConfig, build_first_stage
from models.second_stage import SecondStage, SecondStageConfig
from models.towers import TowerConfig, TwoTower
from serving.snapshot import Snapshot, save_snapshot
from tests.redis_servers import free_ports
from tests.serving_fakes import AS_OF, NUM_USERS, FakeReader, make_settings, make_snapshot
from training.sign import sign_champions

START_SECONDS = 300
FORKS = """
import os, signal, sys
import faiss, torch
from core.errors import StoreUnavailableError
from core.logs import configure_logs
from core.settings import Settings
from serving.parts import BrokenReader
from serving.serve import serve

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in sys.stdin:
    pid = os.fork()
    if pid == 0:
        sys.stdin.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        settings = Settings()
        configure_logs(settings.log_level, settings.log_format)
        serve(settings, reader=BrokenReader(StoreUnavailableError("no feature store in this test")))
    print(pid, flush=True)
"""
TOWERS = TowerConfig(dim=8, hidden=(8,))
FEATURES = (
    Feature("user_history__history_kinds", "user", "sequence", table="kind", num_rows=16, dim=4, length=10),
    Feature("user_profile__num_follows", "user", "numeric", "log1p"),
    Feature("post_profile__topic_id", "post", "categorical", table="topic", num_rows=32, dim=4),
    Feature("post_profile__creator_id", "post", "categorical", table="creator", num_rows=64, dim=4),
)
CROSS = Feature("user_post_cross__post_age_hours", "cross", "numeric", "log1p")


def make_world(folder: Path, *, has_graphs: bool = False, **fields: object) -> Settings:
    """Snapshot and signed champions, run by torch unless they have graphs; Redis is empty until `fill_redis`."""
    settings = make_settings(folder, **fields)
    snapshot = make_snapshot()
    save_snapshot(settings.workspace, snapshot)
    for kind in ("retrieval", "first_stage", "second_stage"):
        publish_model(settings, kind, has_graph=has_graphs)
    publish_vectors(settings, snapshot)
    sign_champions(settings)
    return settings


def publish_model(
    settings: Settings,
    kind: str,
    seed: int = 0,
    calibrator: Calibrator | None = None,
    *,
    is_signed: bool = False,
    has_graph: bool = False,
) -> str:
    """Makes a new bundle of the kind champion; signed before the pointer names it, as `training` does, or not."""
    torch.manual_seed(seed)
    with_cross = (CROSS,) if kind == "second_stage" else ()
    spec = fit_spec((*FEATURES, *with_cross), {**_some_columns(), CROSS.name: np.ones(9, dtype=np.float32)})
    if kind == "second_stage":
        config = SecondStageConfig(cross_rank=4, trunk=(8,), head_hidden=4, history_length=10)
        module, heads = SecondStage(spec, config, is_training=True), HEADS
    elif kind == "first_stage":
        config = FirstStageConfig(TOWERS)
        module, heads = build_first_stage(spec, config, is_training=True), ("selected",)
    else:
        config, heads = TOWERS, ("click",)
        module = TwoTower(spec, config, 1, is_training=True)
    parent = settings.workspace.bundles / kind
    calibrators = [calibrator or Calibrator(intercept=-2.0)] * len(heads) if kind == "second_stage" else []
    bundle_id = save_bundle(parent, kind, module, spec, config, heads, calibrators, {}, {}, has_graph=has_graph)
    pointer = parent / "champion.json"
    before = json.loads(pointer.read_text())["bundle_id"] if pointer.exists() else None
    if is_signed:
        sign_folder(settings.workspace, parent / bundle_id)
    write_atomically(pointer, json.dumps({"bundle_id": bundle_id, "previous": before}))
    return bundle_id


def publish_vectors(
    settings: Settings, snapshot: Snapshot, kinds: Sequence[str] = ("retrieval", "first_stage")
) -> None:
    """Index of the retrieval champion and vectors of the first stage's; nothing is signed."""
    post_ids = snapshot.catalogue.post_ids
    posts = FakeReader(snapshot.catalogue).read("post", post_ids, ENTITY_VIEWS["post"])
    for kind in kinds:
        parent = settings.workspace.bundles / kind
        bundle = load_bundle(parent / json.loads((parent / "champion.json").read_text())["bundle_id"])
        vectors = bundle.post_vectors(posts)
        if kind == "retrieval":
            manifest = write_index(settings.workspace.index, post_ids, vectors, bundle.bundle_id, AS_OF)
            publish_index(settings.workspace.index, manifest.index_id)
        else:
            folder = settings.workspace.index / "first_stage" / bundle.bundle_id
            folder.mkdir(parents=True)
            np.save(folder / "vectors.npy", vectors)
            np.save(folder / "post_ids.npy", post_ids)
            sums = {name: file_hash(folder / name) for name in ("vectors.npy", "post_ids.npy")}
            (folder / "manifest.json").write_text(json.dumps({"sha256": sums}))


def fill_redis(settings: Settings, url: str) -> None:
    """The features of every user and post, as the hourly job would bring them."""
    from feast import FeatureView

    from feature_repo import definitions
    from feature_repo.store import open_feature_store
    from feature_repo.stores.packed.reader import packed_store
    from feature_repo.stores.packed.server import SingleServer

    feature_store = open_feature_store(settings.workspace)
    store = packed_store(feature_store)
    store._server = SingleServer(url)
    catalogue = make_snapshot().catalogue
    for entity, ids in (("user", np.arange(NUM_USERS)), ("post", catalogue.post_ids)):
        found = FakeReader(catalogue).read(entity, ids, ENTITY_VIEWS[entity])
        for view in ENTITY_VIEWS[entity]:
            defined = next(v for v in vars(definitions).values() if isinstance(v, FeatureView) and v.name == view)
            fields = {f.name: _arrow(found[f"{view}__{f.name}"]) for f in ALL_VIEWS[view].fields}
            times = pa.array([AS_OF] * len(ids), pa.timestamp("us", tz="UTC"))
            fields |= {JOIN_KEYS[entity]: pa.array(ids), defined.batch_source.timestamp_field: times}
            list(store.write_arrow(feature_store.config, defined, [pa.RecordBatch.from_pydict(fields)]))


def _arrow(values: np.ndarray) -> pa.Array:
    return pa.array(values.tolist() if values.ndim > 1 or values.dtype == object else values)


def _some_columns() -> dict[str, np.ndarray]:
    rows = FakeReader(make_snapshot().catalogue)
    users = rows.read("user", np.arange(9), ENTITY_VIEWS["user"])
    posts = rows.read("post", rows.catalogue.post_ids[:9], ENTITY_VIEWS["post"])
    follows = {"user_profile__num_follows": np.arange(9, dtype=np.float32)}
    return users | posts | follows


def memory_mb(process: int) -> float:
    """Resident memory of a process, megabytes."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


class ServerProcess:
    """`python -m serving serve` with its output in a file."""

    def __init__(self, settings: Settings, workers: int = 1, **variables: str) -> None:
        self.settings = settings
        self._workers = workers
        self.pid = 0
        self.port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}"
        self.output = settings.workspace.root.parent / "server.log"
        self._variables = {
            **os.environ, "VITRINE_VAR_DIR": str(settings.var_dir), "VITRINE_NUM_THREADS": "1",
            "VITRINE_PORT": str(self.port), **variables,
        }  # fmt: skip
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> "ServerProcess":
        """Returns when it answers."""
        self._process = self._run("-m", "serving", "serve", "--workers", str(self._workers))
        self.pid = self._process.pid
        self._wait()
        return self

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            self._process.wait(30)

    def _run(self, *command: str, **pipes: int) -> "subprocess.Popen[str]":
        with self.output.open("a") as output:
            options = {"stdout": output, "stderr": output, "env": self._variables, "text": True, **pipes}
            return subprocess.Popen([sys.executable, *command], **options)

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.url}/healthz").status_code == 200:
                    return
            except httpx.TransportError:
                assert self._process.poll() is None, self.output.read_text()[-3000:]
                time.sleep(0.02)
        raise AssertionError("the server did not start")


class ForkedServer(ServerProcess):
    """A server without a feature store that is forked from a process with everything imported, so that it can be
    killed and started a hundred times."""

    def start(self) -> "ForkedServer":
        if self._process is None:
            self._process = self._run("-c", FORKS, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._process.stdin.write("start\n")
        self._process.stdin.flush()
        self.pid = int(self._process.stdout.readline())
        self._wait()
        return self

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        os.kill(self.pid, how)
        deadline = time.monotonic() + 30
        while Path(f"/proc/{self.pid}").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def close(self) -> None:
        """Ends the process that forks, and the server."""
        if self._process is not None:
            self._process.stdin.close()
            self._process.stdout.close()
            self._process.wait(30)
        if Path(f"/proc/{self.pid}").exists():
            self.kill()


@contextmanager
def served(settings: Settings, workers: int = 1, **variables: str):
    """A running ServerProcess that ends with the block."""
    server = ServerProcess(settings, workers, **variables).start()
    try:
        yield server
    finally:
        server.kill(signal.SIGTERM)
        server.kill()
