"""State of what the platform predicts and serves with: champions, index, snapshot, the online store."""

from datetime import UTC, datetime
from typing import Any

from core.clock import WallClock
from core.settings import Settings
from core.workspace import Workspace
from operations.status_data import platform_now
from operations.status_items import Item, modified_at, read_object, span

MODEL_KINDS = ("retrieval", "first_stage", "second_stage")

MAIN_METRICS = {
    "retrieval": ("recall@",),
    "first_stage": ("recall@", "pselect"),
    "second_stage": ("auc", "ne"),
}
"""Words in the names of the metrics that say how good a kind of model is."""


def model_items(settings: Settings) -> list[Item]:
    """The champion of every kind, its age and its main metrics."""
    return [_champion(settings.workspace, kind) for kind in MODEL_KINDS]


def champion_id(workspace: Workspace, kind: str) -> str | None:
    """Bundle id of the kind's champion, None before one was trained."""
    pointer = workspace.bundles / kind / "champion.json"
    return str(read_object(pointer)["bundle_id"]) if pointer.exists() else None


def _champion(workspace: Workspace, kind: str) -> Item:
    command = f"make {kind.replace('_', '-')}"
    bundle_id = champion_id(workspace, kind)
    if bundle_id is None:
        return Item(kind, "not made yet", "missing", command)
    path = workspace.bundles / kind / bundle_id / "manifest.json"
    if not path.exists():
        return Item(kind, f"champion {bundle_id} is not at {path.parent}", "degraded", command)
    found = read_object(path)
    age = span(WallClock().now() - modified_at(path))
    count = sum(1 for entry in path.parent.parent.iterdir() if (entry / "manifest.json").exists())
    item = Item(kind, f"{bundle_id[:12]}, trained {age} ago, {count} kept, {main_metrics(kind, found)}".rstrip(", "))
    made_for = str(dict(found.get("versions", {})).get("data_version", ""))
    if made_for and made_for != workspace.manifest().data_version:
        return Item(kind, f"{item.value}; trained on data {made_for[:12]}", "degraded", command)
    return item


def main_metrics(kind: str, manifest: dict[str, Any], most: int = 4) -> str:
    """Up to `most` telling metrics of a bundle as `name value`, in the manifest's order."""
    flat = flatten(dict(manifest.get("metrics", {})))
    telling = {n: v for n, v in flat.items() if any(word in n.lower() for word in MAIN_METRICS[kind])} or flat
    return ", ".join(f"{name} {value:.3f}" for name, value in list(telling.items())[:most])


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Numbers of nested mappings by dotted name."""
    flat: dict[str, float] = {}
    for name, value in nested.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            flat[f"{prefix}{name}"] = float(value)
    return flat


def index_items(settings: Settings) -> list[Item]:
    """The index that serves, its age and whether it matches the retrieval champion; first-stage vectors alike."""
    workspace = settings.workspace
    return [_index(settings), _first_stage_vectors(workspace)]


def _index(settings: Settings) -> Item:
    workspace = settings.workspace
    pointer = workspace.index / "champion.json"
    if not pointer.exists():
        return Item("index", "not made yet", "missing", "make index")
    found = read_object(workspace.index / str(read_object(pointer)["index_id"]) / "manifest.json")
    age = span(platform_now(settings) - _instant(str(found["built_at"])))
    text = f"{found['index_id']}: {found['count']:,} posts × {found['dim']}, features {age} old"
    champion = champion_id(workspace, "retrieval")
    if champion != found["bundle_id"]:
        return Item("index", f"{text}; made by {found['bundle_id']}, champion is {champion}", "degraded", "make index")
    return Item("index", f"{text}; matches the retrieval champion")


def _first_stage_vectors(workspace: Workspace) -> Item:
    champion = champion_id(workspace, "first_stage")
    if champion is None:
        return Item("first-stage vectors", "no first-stage champion yet", "missing", "make first-stage")
    path = workspace.index / "first_stage" / champion / "manifest.json"
    if not path.exists():
        return Item("first-stage vectors", f"none of champion {champion[:12]}", "degraded", "make first-stage")
    found = read_object(path)
    return Item("first-stage vectors", f"{found.get('count', 0):,} posts; match the first-stage champion")


def snapshot_items(settings: Settings) -> list[Item]:
    """Serving's view of the log: how old, and whether of this data."""
    workspace = settings.workspace
    pointer = workspace.snapshot / "current.json"
    if not pointer.exists():
        return [Item("snapshot", "not made yet", "missing", "make index")]
    found = read_object(workspace.snapshot / str(read_object(pointer)["snapshot_id"]) / "manifest.json")
    age = span(platform_now(settings) - datetime.fromtimestamp(float(found["as_of"]), UTC))
    text = f"{found['snapshot_id']}, log up to {age} ago"
    if found.get("data_version") != workspace.manifest().data_version:
        return [Item("snapshot", f"{text}; made from data {found.get('data_version')}", "degraded", "make index")]
    return [Item("snapshot", text)]


def _instant(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)
