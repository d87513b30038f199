"""The link `feature_repo/data` to a workspace, so that bare `feast` commands in feature_repo/ work on it."""

from pathlib import Path

from core.errors import ConfigError
from core.workspace import Workspace

LINK = Path(__file__).with_name("data")


def link_workspace(workspace: Workspace, link: Path = LINK) -> Path:
    """Points `link` at the workspace's data folder, which is made if absent; replaces an older link."""
    workspace.data.mkdir(parents=True, exist_ok=True)
    if link.exists() and not link.is_symlink():
        raise ConfigError(
            f"{link} is a folder, not the link that bare feast commands need; move it away and link again"
        )
    target = workspace.data.resolve()
    if link.is_symlink() and link.resolve() == target:
        return link
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)
    return link
