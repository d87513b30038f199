"""Signs what serves: champions, index and post vectors that were made before signatures, or under another key."""

import json
from pathlib import Path

from core.settings import Settings
from core.signatures import sign_folder, verify_files
from core.workspace import Workspace
from models.ann import champion_index, load_index
from models.bundle import KINDS, load_bundle
from training.publish import champion_bundle


def sign_champions(settings: Settings) -> list[Path]:
    """Folders of the workspace that are signed now, each checked against its checksums first. Raises BundleError."""
    workspace = settings.workspace
    folders = []
    for kind in KINDS:
        if (workspace.bundles / kind / "champion.json").exists():
            folder = champion_bundle(settings, kind)
            load_bundle(folder)
            folders.append(folder)
    folders += _vectors(workspace)
    for folder in folders:
        sign_folder(workspace, folder)
    return folders


def _vectors(workspace: Workspace) -> list[Path]:
    folders = [f.parent for f in sorted(workspace.index.glob("first_stage/*/manifest.json"))]
    for folder in folders:
        verify_files(folder, json.loads((folder / "manifest.json").read_text()).get("sha256"))
    if (workspace.index / "champion.json").exists():
        index = champion_index(workspace.index)
        load_index(index, str(json.loads((index / "manifest.json").read_text())["bundle_id"]))
        folders.append(index)
    return folders
