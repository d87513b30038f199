"""The funnels that serve, by surface, and the one place where they are exchanged for newer ones."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import NamedTuple

from core.errors import VitrineError
from core.files import content_hash
from core.workspace import Workspace
from serving.funnel.runner import Funnel
from serving.live.live import Live
from serving.parts import Parts
from serving.snapshot import Snapshot
from serving.spec import FunnelSpec
from serving.spec_file import spec_files


@dataclass(frozen=True)
class FunnelSet:
    """What a new spec, model or snapshot replaces, as one value that a request takes once and keeps to its end."""

    by_surface: Mapping[str, Funnel]
    """The default one first."""
    parts: Parts
    live: Live | None = None
    """What follows the journal for the snapshot, None where nothing does."""

    @property
    def snapshot(self) -> Snapshot:
        """What all of the funnels serve from."""
        return self.default.snapshot

    @property
    def default(self) -> Funnel:
        """The funnel of surfaces that have no spec of their own."""
        return next(iter(self.by_surface.values()))

    @property
    def specs(self) -> dict[str, FunnelSpec]:
        """The specs by surface, the default one first."""
        return {surface: funnel.spec for surface, funnel in self.by_surface.items()}

    def of(self, surface: str) -> Funnel:
        """The funnel that answers for a surface."""
        return self.by_surface.get(surface, self.default)


class Fingerprint(NamedTuple):
    """Hashes of the files that say what serves."""

    specs: str
    models: str
    snapshot: str


@dataclass
class ServingFunnels:
    """What serves right now."""

    current: FunnelSet
    started_from: Fingerprint
    """Of the files, before the first funnels were built from them."""
    spec_refused: str | None = None
    """Why the spec files as they are do not serve; the ones before go on."""
    models_refused: tuple[str, ...] = ()
    """Parts of newer models that do not load; the ones before go on."""
    snapshot_refused: str | None = None
    """Why the snapshot on disk does not serve; the one before goes on."""
    asked: Event = field(default_factory=Event)
    """Set to have the files read again at once."""
    followers: list[Callable[[FunnelSet], None]] = field(default_factory=list)
    """Told after each exchange: what follows the funnels from outside, such as metrics."""

    def exchange(self, newer: FunnelSet) -> None:
        """Puts `newer` in the place of `current`, in one step."""
        self.current = newer
        for follow in self.followers:
            follow(newer)


def fingerprint(workspace: Workspace, spec_path: Path | None) -> Fingerprint:
    """What the files hold now; `spec_path` is None where the spec comes from no file."""
    specs: tuple[Path, ...] = ()
    if spec_path is not None:
        try:
            specs = spec_files(spec_path)
        except VitrineError:
            specs = (spec_path,)
    kinds = ("retrieval", "first_stage", "second_stage")
    pointers = [*(workspace.bundles / kind / "champion.json" for kind in kinds), workspace.index / "champion.json"]
    snapshot = workspace.snapshot / "current.json"
    # What a pointer names may be completed, signed or repaired later, vectors written again for new posts.
    files = [file for pointer in pointers for file in _named_files(pointer)]
    files += [workspace.verify_key, *sorted((workspace.index / "first_stage").glob("*/*"))]
    return Fingerprint(
        content_hash([part for path in specs for part in (path.name, _content(path))]),
        content_hash([*map(_content, pointers), *(f"{path} {_stamp(path)}" for path in files)]),
        content_hash([_content(snapshot), str(_stamp(snapshot))]),
    )


def _named_files(pointer: Path) -> list[Path]:
    """Files of the folder that should serve."""
    try:
        named = json.loads(_content(pointer))
        name = str(named.get("bundle_id") or named["index_id"])
        return sorted((pointer.parent / Path(name).name).iterdir())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _stamp(path: Path) -> tuple[int, int]:
    """When the file was written last, and its size."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size
