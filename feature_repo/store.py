"""Opens Feast for a workspace. The one place that builds a RepoConfig."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import FeatureStoreError
from core.workspace import Workspace

if TYPE_CHECKING:
    from feast import FeatureStore, RepoConfig

CONFIG_PATH = Path(__file__).with_name("feature_store.yaml")


def open_feature_store(workspace: Workspace) -> "FeatureStore":
    """Feast's store with the settings of feature_store.yaml and every relative path inside `workspace`."""
    from feast import FeatureStore  # takes seconds, so it waits until a store is wanted

    try:
        return FeatureStore(repo_path=str(workspace.root), fs_yaml_file=CONFIG_PATH)
    except Exception as error:
        raise FeatureStoreError(
            f"Feast cannot open {workspace.root} with {CONFIG_PATH.name}: {error}; "
            "check the file and run `python -m feature_repo apply`"
        ) from error


def workspace_of(config: "RepoConfig") -> Workspace:
    """The workspace whose `data` folder a Feast repo uses, also through the link in feature_repo/."""
    return Workspace((Path(config.repo_path or ".") / "data").resolve().parent)


def apply_definitions(workspace: Workspace) -> "FeatureStore":
    """The opened store after every object of definitions.py was registered and what left it was removed."""
    from feast import Entity, FeatureService, FeatureView
    from feast.data_source import DataSource
    from feast.on_demand_feature_view import OnDemandFeatureView

    from feature_repo import definitions
    from feature_repo.exported import ensure_tables

    ensure_tables(workspace)
    workspace.data.mkdir(parents=True, exist_ok=True)
    store = open_feature_store(workspace)
    kinds = (Entity, FeatureService, FeatureView, OnDemandFeatureView)
    wanted = [o for o in vars(definitions).values() if isinstance(o, kinds)]
    wanted += [v.batch_source for v in wanted if isinstance(v, FeatureView)]
    names = {o.name for o in wanted}
    registered = [
        *store.list_feature_services(),
        *store.list_on_demand_feature_views(),
        *store.list_batch_feature_views(),
        *store.list_entities(),
        *store.list_data_sources(),
    ]
    stale = [o for o in registered if o.name not in names and isinstance(o, (*kinds, DataSource))]
    with warnings.catch_warnings():
        # Feast marks on-demand views experimental at every apply.
        warnings.filterwarnings("ignore", message="On demand feature view is an experimental feature")
        store.apply(wanted, objects_to_delete=stale, partial=False)
    return store
