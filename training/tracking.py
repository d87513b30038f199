"""Runs and registered models in MLflow. The only module that imports mlflow.

Bundles are registered by their artifact folder as a model version's source; no flavour, so no pickle.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from core.clock import Clock, WallClock
from core.errors import TrackingError
from core.settings import Settings
from training.promotion import Decision, Standing, decide, load_policy

MODEL_PREFIX = "vt_explore_feed_"
MAX_PARAM_CHARACTERS = 5_000
BATCH = 900
"""Entries per log_batch call; MLflow takes 1,000 in all, of which 100 parameters."""


@dataclass(frozen=True)
class RunRecord:
    """Everything one run leaves behind."""

    kind: str
    config: Mapping[str, Any]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    artifacts: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    """Files and folders by the artifact folder they go to."""
    started_at: datetime | None = None
    """When the work began that the run tells of; None for when it is recorded."""


@dataclass(frozen=True)
class Registration:
    """A model version as registered, its run, and whether it serves."""

    model: str
    version: str
    run_id: str
    decision: Decision


@contextmanager
def _mapped(doing: str, uri: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            # MLflow calls SQLAlchemy in ways that the latter deprecates; neither is ours to change.
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"mlflow|sqlalchemy")
            warnings.filterwarnings("ignore", message=".*loader strategy is deprecated")
            yield
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"MLflow at {uri} failed while {doing}: {error}; check VITRINE_MLFLOW_TRACKING_URI"
        ) from error


def tracking_uri(settings: Settings) -> str:
    """The team's server, else SQLite in the workspace."""
    return settings.mlflow_tracking_uri or f"sqlite:///{settings.workspace.root / 'mlflow.db'}"


class Tracker:
    """Writes runs of one dataset and decides on aliases."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self._uri = tracking_uri(settings)
        self._clock = clock or WallClock()
        self._dataset = settings.workspace.root.name
        for chatty in ("mlflow", "alembic"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        settings.workspace.root.mkdir(parents=True, exist_ok=True)
        with _mapped("opening", self._uri):
            self._client = MlflowClient(self._uri, self._uri)
            name = f"vitrine/{self._dataset}"
            experiment = self._client.get_experiment_by_name(name)
            if experiment is not None:
                self._experiment_id = experiment.experiment_id
            else:
                is_own = settings.mlflow_tracking_uri is None
                artifacts = (settings.workspace.root / "mlartifacts").as_uri() if is_own else None
                self._experiment_id = self._client.create_experiment(name, artifact_location=artifacts)

    def record(self, run: RunRecord) -> str:
        """The id of a finished run that holds `run`. Raises TrackingError; the run is then marked failed."""
        with _mapped(f"recording a {run.kind} run", self._uri):
            tags = {"model_type": MODEL_PREFIX + run.kind, "dataset": self._dataset, **run.tags}
            name = f"{run.kind}-{tags.get('bundle_id', '')[:8]}".rstrip("-")
            began = None if run.started_at is None else int(run.started_at.timestamp() * 1000)
            created = self._client.create_run(self._experiment_id, start_time=began, tags=tags, run_name=name)
            run_id = str(created.info.run_id)
            try:
                self._write(run_id, run)
            except BaseException:
                self._client.set_terminated(run_id, "FAILED")
                raise
            self._client.set_terminated(run_id, "FINISHED")
            return run_id

    def _write(self, run_id: str, run: RunRecord) -> None:
        at = int(self._clock.now().timestamp() * 1000)
        params = [Param(key, value[:MAX_PARAM_CHARACTERS]) for key, value in flatten(run.config).items()]
        for start in range(0, len(params), 100):
            self._client.log_batch(run_id, params=params[start : start + 100])
        metrics = [Metric(metric_key(key), float(value), at, 0) for key, value in run.metrics.items()]
        for key, curve in run.curves.items():
            metrics += [Metric(metric_key(key), float(value), at, step) for step, value in enumerate(curve)]
        for start in range(0, len(metrics), BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : start + BATCH])
        for folder, paths in run.artifacts.items():
            for path in paths:
                log = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
                log(run_id, str(path), folder)

    def register(self, kind: str, run_id: str, standing: Standing) -> Registration:
        """The new version of the kind's model, with its alias set by the registry policy."""
        model = MODEL_PREFIX + kind
        champion = self.champion_standing(kind)
        decision = decide(load_policy(model), standing, champion)
        with _mapped(f"registering {model}", self._uri):
            if not self._client.search_registered_models(f"name = '{model}'"):
                self._client.create_registered_model(model)
            run = self._client.get_run(run_id)
            source = f"{run.info.artifact_uri}/bundle"
            tags = {
                "data_version": standing.data_version,
                "bundle_id": run.data.tags.get("bundle_id", ""),
                "promotion": decision.reason,
            }
            version = str(self._client.create_model_version(model, source, run_id, tags=tags).version)
            alias = "champion" if decision.is_promoted else "challenger"
            self._client.set_registered_model_alias(model, alias, version)
            self._client.set_tag(run_id, "alias", alias)
        return Registration(model, version, run_id, decision)

    def champion_standing(self, kind: str) -> Standing | None:
        """Metrics and data version of the model that serves now; None before there is one."""
        model = MODEL_PREFIX + kind
        with _mapped(f"reading the champion of {model}", self._uri):
            registered = self._client.search_registered_models(f"name = '{model}'")
            version = registered[0].aliases.get("champion") if registered else None
            if version is None:
                return None
            found = self._client.get_model_version(model, version)
            metrics = self._client.get_run(found.run_id).data.metrics
            names = {metric_key(load_policy(model).metric): load_policy(model).metric}
            known = {names.get(key, key): value for key, value in metrics.items()}
            return Standing(found.tags.get("data_version", ""), known)

    def set_run_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Adds tags to a run."""
        with _mapped("tagging a run", self._uri):
            self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def metric_key(name: str) -> str:
    """`name` as MLflow takes it: an at sign is not among its characters."""
    return name.replace("@", "_at_")


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Parameters as dotted names and texts; dataclasses and mappings are entered, the rest is written as repr."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{metric_key(str(key))}"
        if is_dataclass(value) and not isinstance(value, type):
            flat |= flatten(asdict(value), f"{name}.")
        elif isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = str(value)
    return flat
