"""Where one dataset's files live. Every room asks here and nobody builds paths by hand.

var/<dataset>/
  dataset.json      what the data is, and where its time ends (DatasetManifest)
  log/<table>/      the append-only event log, day=YYYY-MM-DD/*.parquet
  quarantine/       refused rows with reasons, one Parquet file per gate and run
  journal.db        events and writes that came over HTTP, durable before they are acknowledged
  explanations.db   why each served post was where it was, bounded in age and size
  precomputed/      slates for chosen users, served at overload and when ranking is down
  served.db         pages as they were served
  api_keys.json     hashes of the keys that may call the server
  signing.key, signing.pub   what bundles and indexes are signed with, and checked by
  served_features/  what the second stage was fed for sampled requests, Parquet, a week of it
  data/             Feast's own: registry.db, features/<view>/, redis/; feature_state/ for the next build
  training_sets/    point-in-time joined examples, by name
  checkpoints/      what a killed training goes on from, one folder per training under way
  bundles/<kind>/   model bundles: retrieval, first_stage, second_stage
  index/            FAISS index and post vectors
  snapshot/         serving's view of the log: catalogue, trending, popular, neighbours
  docs/             Great Expectations Data Docs
  reports/          tables and plots of evaluation
  mlflow.db, mlartifacts/
"""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from core.clock import AnchoredClock, Clock, WallClock
from core.errors import InputError, MissingStageError
from core.files import write_atomically


@dataclass(frozen=True)
class DatasetManifest:
    """What a workspace's data is. `anchor_at` is None for live data, else the instant its time ends."""

    name: str
    kind: str  # "world" | "kuairand" | "own"
    data_version: str  # content hash of config or input files
    anchor_at: datetime | None
    first_event_at: datetime
    last_event_at: datetime
    rows: dict[str, int]
    config: dict[str, object]

    def to_json(self) -> str:
        fields = asdict(self)
        for name in ("anchor_at", "first_event_at", "last_event_at"):
            at = fields[name]
            fields[name] = at.astimezone(UTC).isoformat() if at is not None else None
        return json.dumps(fields, indent=2, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "DatasetManifest":
        fields = json.loads(text)
        for name in ("anchor_at", "first_event_at", "last_event_at"):
            fields[name] = datetime.fromisoformat(fields[name]) if fields[name] else None
        return DatasetManifest(**fields)


@dataclass(frozen=True)
class Workspace:
    """Paths of one dataset below `root`."""

    root: Path

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine"

    @property
    def journal(self) -> Path:
        return self.root / "journal.db"

    @property
    def served(self) -> Path:
        return self.root / "served.db"

    @property
    def explanations(self) -> Path:
        return self.root / "explanations.db"

    @property
    def precomputed(self) -> Path:
        return self.root / "precomputed"

    @property
    def served_features(self) -> Path:
        return self.root / "served_features"

    @property
    def cursor_secret(self) -> Path:
        return self.root / "cursor.secret"

    @property
    def api_keys(self) -> Path:
        return self.root / "api_keys.json"

    @property
    def signing_key(self) -> Path:
        return self.root / "signing.key"

    @property
    def verify_key(self) -> Path:
        return self.root / "signing.pub"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def features(self) -> Path:
        return self.data / "features"

    @property
    def redis(self) -> Path:
        return self.data / "redis"

    @property
    def training_sets(self) -> Path:
        return self.root / "training_sets"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def bundles(self) -> Path:
        return self.root / "bundles"

    @property
    def index(self) -> Path:
        return self.root / "index"

    @property
    def snapshot(self) -> Path:
        return self.root / "snapshot"

    @property
    def docs(self) -> Path:
        return self.root / "docs"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    @property
    def manifest_path(self) -> Path:
        return self.root / "dataset.json"

    def manifest(self) -> DatasetManifest:
        """The data's manifest. Raises MissingStageError before any data was made or imported."""
        if not self.manifest_path.exists():
            raise MissingStageError("dataset", self.manifest_path, f"make data DATASET={self.root.name}")
        try:
            return DatasetManifest.from_json(self.manifest_path.read_text())
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{self.manifest_path} is not a dataset manifest ({error}); run `make data` again"
            ) from error

    def write_manifest(self, manifest: DatasetManifest) -> None:
        write_atomically(self.manifest_path, manifest.to_json())

    def clock(self, mode: str = "auto") -> Clock:
        """The clock this data needs: anchored at its end unless the data is live or `mode` is wall."""
        anchor_at = self.manifest().anchor_at if mode == "auto" else None
        return AnchoredClock(anchor_at) if anchor_at is not None else WallClock()
