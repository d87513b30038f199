"""From a fitted model to one that serves: bundle on disk, run in MLflow, version in the registry, champion pointer."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from core.errors import BundleError, MissingStageError
from core.files import content_hash, write_atomically
from core.settings import Settings
from core.signatures import sign_folder
from models.ann import previous_name
from models.bundle import load_bundle
from models.metrics import finite
from training.loop import FittedModel
from training.promotion import Standing
from training.provenance import learning_code_id
from training.set_files import SetManifest

CURVES = ("train_loss", "valid_loss", "learning_rate")


@dataclass(frozen=True)
class Published:
    """Where a trained model ended up; `is_new` is false when nothing had changed since the last training."""

    kind: str
    bundle_id: str
    is_champion: bool
    is_new: bool
    reason: str
    run_id: str
    model_version: str
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Findings:
    """What was measured on a fitted model beside its own metrics, and pictures of it."""

    started_at: datetime
    metrics: Mapping[str, float] = field(default_factory=dict)
    plots: Sequence[Path] = ()


def training_id(config: Mapping[str, Any], set_manifest: SetManifest) -> str:
    """Hash of everything that decides a training: the run config, the bytes of its training set, the code."""
    return content_hash([json.dumps(config, sort_keys=True, default=str), set_manifest.set_id, learning_code_id()], 16)


def unchanged(settings: Settings, kind: str, trained_from: str) -> Published | None:
    """What the last training of this kind published, if it had the same inputs and its bundle is still there."""
    folder = settings.workspace.bundles / kind
    try:
        last = json.loads((folder / "last_training.json").read_text())
        if last.pop("trained_from") != trained_from or not (folder / last["bundle_id"]).is_dir():
            return None
        return Published(**{**last, "is_new": False})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def publish(
    settings: Settings,
    fitted: FittedModel,
    config: Mapping[str, Any],
    set_manifest: SetManifest,
    bundle: Path,
    findings: Findings,
) -> Published:
    """Records, registers and, if the registry policy says so, makes `bundle` the champion."""
    from training.tracking import RunRecord, Tracker

    metrics = finite({f"validation/{k}": v for k, v in fitted.metrics.items()} | dict(findings.metrics))
    tracker = Tracker(settings)
    run_id = tracker.record(
        RunRecord(
            kind=fitted.kind,
            config=config,
            tags={
                "bundle_id": bundle.name,
                "data_version": set_manifest.data_version,
                "set_id": set_manifest.set_id,
                "recipe": str(config.get("name", "")),
            },
            metrics=metrics,
            curves=history_curves(fitted.history),
            artifacts={"bundle": [bundle], "plots": list(findings.plots)},
            started_at=findings.started_at,
        )
    )
    registration = tracker.register(fitted.kind, run_id, Standing(set_manifest.data_version, metrics))
    published = Published(
        kind=fitted.kind,
        bundle_id=bundle.name,
        is_champion=registration.decision.is_promoted,
        is_new=True,
        reason=registration.decision.reason,
        run_id=run_id,
        model_version=registration.version,
        metrics=metrics,
    )
    load_bundle(bundle)  # a folder of this name may have been there before and be damaged; that is not signed
    sign_folder(settings.workspace, bundle)
    if published.is_champion:
        path = bundle.parent / "champion.json"
        pointer = {"bundle_id": bundle.name, "model_version": registration.version, "run_id": run_id}
        write_atomically(path, json.dumps(pointer | {"previous": previous_name(path, "bundle_id", bundle.name)}))
    record = {"trained_from": training_id(config, set_manifest), **vars(published), "metrics": dict(metrics)}
    write_atomically(bundle.parent / "last_training.json", json.dumps(record, indent=1))
    return published


def history_curves(history: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Curves by name from the loop's history, one value per validation."""
    names = [n for n in dict.fromkeys(k for entry in history for k in entry) if n in CURVES or n.startswith("valid_")]
    return {f"curve/{name}": [entry[name] for entry in history if name in entry] for name in names}


def cost_metrics(manifest: Mapping[str, Any]) -> dict[str, float]:
    """What one example costs by a bundle's manifest, as `cost/<name>`."""
    return {f"cost/{name}": float(value) for name, value in manifest["cost"].items()}


def champion_bundle(settings: Settings, kind: str) -> Path:
    """The folder of the bundle that serves. Raises MissingStageError before one was trained."""
    pointer = settings.workspace.bundles / kind / "champion.json"
    if not pointer.exists():
        raise MissingStageError(f"{kind} champion", pointer, f"python -m training {kind.replace('_', '-')}")
    try:
        return pointer.parent / str(json.loads(pointer.read_text())["bundle_id"])
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"{pointer} names no bundle ({error!r}); run `python -m training {kind.replace('_', '-')} --force`"
        ) from error
