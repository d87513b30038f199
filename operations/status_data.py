"""State of what learning starts from: the log, the features, the training sets."""

from datetime import datetime
from pathlib import Path

from core.settings import Settings
from core.workspace import Workspace
from feature_repo.catalog import EXPORTED_VIEWS
from operations.status_items import Item, minute, modified_at, newest, parquet_rows, read_object, span


def platform_now(settings: Settings) -> datetime:
    """The platform's now in this workspace."""
    return settings.workspace.clock(settings.clock).now()


def data_items(settings: Settings) -> list[Item]:
    """The dataset, its span, the platform's now, rows and days per table."""
    workspace = settings.workspace
    if not workspace.manifest_path.exists():
        return [Item(workspace.root.name, f"nothing at {workspace.root}", "missing", "make data")]
    manifest = workspace.manifest()
    kind = "anchored at the data's end" if manifest.anchor_at and settings.clock == "auto" else "wall clock"
    scale = manifest.config.get("scale")
    items = [
        Item(
            "dataset",
            f"{manifest.name} ({manifest.kind}) {manifest.data_version}" + (f", scale {scale}" if scale else ""),
        ),
        Item("span", f"{minute(manifest.first_event_at)} to {minute(manifest.last_event_at)}"),
        Item("platform now", f"{minute(platform_now(settings))}, {kind}", "info"),
    ]
    items += [_log_table(workspace, table, rows) for table, rows in sorted(manifest.rows.items())]
    candidates = workspace.log / "candidates"
    if "candidates" not in manifest.rows:
        is_there = candidates.is_dir()
        value = f"{parquet_rows(candidates):,} rows" if is_there else "not made yet"
        items.append(Item("candidates", value, "ok" if is_there else "missing", "" if is_there else "make candidates"))
    return items


def _log_table(workspace: Workspace, table: str, rows: int) -> Item:
    days = sorted(path.name.removeprefix("day=") for path in (workspace.log / table).glob("day=*"))
    if rows and not days:
        return Item(table, f"{rows:,} rows by the manifest, no files", "degraded", "make data")
    return Item(table, f"{rows:,} rows" + (f", {len(days)} days to {days[-1]}" if days else ""))


def feature_items(settings: Settings) -> list[Item]:
    """Every feature table with rows, newest event and known time and age, then the registry."""
    workspace = settings.workspace
    views = sorted(p for p in workspace.features.glob("*") if p.is_dir()) if workspace.features.is_dir() else []
    if not views:
        return [Item("feature tables", "not made yet", "missing", "make features")]
    now = platform_now(settings)
    registry = workspace.data / "registry.db"
    applied = (
        Item("registry", f"applied {minute(modified_at(registry))} by the wall clock")
        if registry.exists()
        else Item("registry", "not made yet", "missing", "make apply")
    )
    return [*(_feature_view(view, now) for view in views), applied, _materialized(workspace)]


def _materialized(workspace: Workspace) -> Item:
    """When the online store was last brought up to date, and whether with the feature tables that are there."""
    record, build = workspace.data / "materialized.json", workspace.features / "build.json"
    if not record.exists():
        return Item("materialised", "not yet", "missing", "make materialize")
    text = f"{minute(modified_at(record))} by the wall clock"
    if build.exists() and read_object(build).get("generation") != read_object(record).get("generation"):
        return Item("materialised", f"{text}, from older feature tables", "degraded", "make materialize")
    return Item("materialised", text)


def _feature_view(view: Path, now: datetime) -> Item:
    rows, event_at, known_at = parquet_rows(view), newest(view, "event_at"), newest(view, "known_at")
    if rows == 0 and view.name in EXPORTED_VIEWS:
        return Item(view.name, "not exported: the foundation user model is optional (make foundation)")
    if rows == 0:
        return Item(view.name, "no rows", "degraded", "make features")
    text = f"{rows:,} rows"
    if event_at is not None:
        text += f", to {minute(event_at)}, age {span(now - event_at)}"
    if known_at is not None:
        text += f", known {minute(known_at)}"
    return Item(view.name, text)


def training_set_items(settings: Settings) -> list[Item]:
    """Every training set with its rows per split and identity."""
    manifests = sorted(settings.workspace.training_sets.glob("*/manifest.json"))
    if not manifests:
        return [Item("training sets", "not made yet", "missing", "make sets")]
    return [_training_set(path) for path in manifests]


def _training_set(path: Path) -> Item:
    found = read_object(path)
    parts = ", ".join(f"{name} {rows:,}" for name, rows in found.get("rows_by_split", {}).items())
    text = f"{found['rows']:,} rows" + (f" ({parts})" if parts else "")
    return Item(path.parent.name, f"{text}, {str(found.get('set_id', ''))[:12]}")
