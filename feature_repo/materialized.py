"""How far each view was materialised, as Feast's registry has it; no connection to the online store."""

from datetime import UTC, datetime
from pathlib import Path

from core.workspace import Workspace
from feature_repo.store import open_feature_store


def registry_path(workspace: Workspace) -> Path:
    """The registry's file, rewritten by every apply and materialisation."""
    return workspace.data / "registry.db"


def materialized_spans(workspace: Workspace) -> dict[str, list[datetime]]:
    """Ends of the materialisations of each view in the order they were made; empty before the registry was made.

    Raises FeatureStoreError for a registry that cannot be read.
    """
    if not registry_path(workspace).exists():
        return {}
    views = open_feature_store(workspace).list_batch_feature_views()
    return {view.name: [_aware(end) for _, end in view.materialization_intervals] for view in views}


def materialized_until(workspace: Workspace) -> dict[str, datetime]:
    """The platform's now of each view's last materialisation; a view that never was is left out."""
    spans = materialized_spans(workspace)
    # The last one made: after a restart of an anchored clock that need not be the one that ends last.
    return {view: ends[-1] for view, ends in spans.items() if ends}


def _aware(at: datetime) -> datetime:
    return at if at.tzinfo else at.replace(tzinfo=UTC)
