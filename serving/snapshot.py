"""The snapshot: serving's memory-mapped view of the log at one instant. Plain .npy files and a manifest.

    snapshot/<snapshot_id>/manifest.json, <name>.npy
    snapshot/current.json                     which one serves

Posts are numbered by their row in the catalogue, sorted by post id; every list of posts holds such rows.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.errors import BundleError, MissingStageError
from core.files import file_hash, sync_folder, write_atomically
from core.workspace import Workspace
from events.lock import exclusive

FORMAT = 2
UNKNOWN = -1
"""Code of a null language, country or media type, and row of an unknown post, creator or user."""

Rows = NDArray[np.int64]


class Ragged(NamedTuple):
    """Lists of different lengths in three flat arrays: list i is values[offsets[i]:offsets[i + 1]]."""

    offsets: NDArray[np.int64]
    values: NDArray[np.int64]
    weights: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def list_of(self, i: int) -> NDArray[np.int64]:
        """Values of list `i`, empty for UNKNOWN."""
        return self.values[self.offsets[i] : self.offsets[i + 1]] if 0 <= i < len(self) else self.values[:0]

    def weights_of(self, i: int) -> NDArray[np.float32]:
        """Weights beside `list_of(i)`."""
        return self.weights[self.offsets[i] : self.offsets[i + 1]] if 0 <= i < len(self) else self.weights[:0]

    def several(self, places: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Values of the lists at `places` one behind the other, and which of `places` each value is of."""
        known = np.flatnonzero((places >= 0) & (places < len(self)))
        starts = self.offsets[places[known]]
        sizes = self.offsets[places[known] + 1] - starts
        owners = np.repeat(known, sizes)
        within = np.arange(len(owners)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return self.values[np.repeat(starts, sizes) + within], owners


class Texts(NamedTuple):
    """Strings by position in one UTF-8 buffer."""

    offsets: NDArray[np.int64]
    utf8: NDArray[np.uint8]

    def text(self, i: int) -> str:
        return bytes(self.utf8[self.offsets[i] : self.offsets[i + 1]]).decode()


def find_rows(sorted_ids: NDArray[np.int64], ids: NDArray[np.int64]) -> Rows:
    """Position of each id in `sorted_ids`, UNKNOWN where it is not there, [N]."""
    wanted = np.asarray(ids, dtype=np.int64)
    if len(sorted_ids) == 0:
        return np.full(len(wanted), UNKNOWN, dtype=np.int64)
    at = np.minimum(np.searchsorted(sorted_ids, wanted), len(sorted_ids) - 1)
    return np.where(sorted_ids[at] == wanted, at, UNKNOWN).astype(np.int64)


def find_row(sorted_ids: NDArray[np.int64], wanted: int) -> int:
    """Position of one id in `sorted_ids`, UNKNOWN where it is not there."""
    at = int(sorted_ids.searchsorted(wanted))
    return at if at < len(sorted_ids) and sorted_ids[at] == wanted else UNKNOWN


@dataclass(frozen=True)
class Catalogue:
    """Every known post, one row each, sorted by id. Instants are unix seconds."""

    post_ids: NDArray[np.int64]
    creator_ids: NDArray[np.int64]
    topic_ids: NDArray[np.int64]
    language_codes: NDArray[np.int16]
    country_codes: NDArray[np.int16]
    media_codes: NDArray[np.int16]
    created_at: NDArray[np.float64]
    duration_seconds: NDArray[np.float32]
    integrity: NDArray[np.float32]
    is_recommendable: NDArray[np.bool_]
    num_impressions: NDArray[np.int64]
    popularity: NDArray[np.float32]
    """Value per impression over the last days, smoothed."""
    report_rate: NDArray[np.float32]
    """Reports per impression, smoothed towards none."""
    content: NDArray[np.float32]
    languages: tuple[str, ...] = ()
    countries: tuple[str, ...] = ()
    media_types: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.post_ids)

    def rows_of(self, post_ids: NDArray[np.int64]) -> Rows:
        """Catalogue rows of the posts, UNKNOWN where there is none."""
        return find_rows(self.post_ids, post_ids)

    def language_code(self, language: str | None) -> int:
        """Code of a language name, UNKNOWN for one no post or user has."""
        return self.languages.index(language) if language in self.languages else UNKNOWN

    def country_code(self, country: str | None) -> int:
        """Code of a country name, UNKNOWN for one no post or user has."""
        return self.countries.index(country) if country in self.countries else UNKNOWN

    @property
    def newest_rows(self) -> Rows:
        """Rows written since the snapshot, newest first; none in a catalogue that does not live."""
        return np.empty(0, dtype=np.int64)

    def was_written(self, rows: Rows) -> NDArray[np.bool_]:
        """Whether each row was written since the snapshot, [N]."""
        return np.zeros(len(rows), dtype=np.bool_)

    def changes_since(self, version: int) -> tuple[int, Rows]:
        """The version of today, and the rows written since `version`."""
        return 0, np.empty(0, dtype=np.int64)

    @cached_property
    def by_popularity(self) -> Rows:
        """All rows, best stored popularity first."""
        return np.argsort(-self.popularity, kind="stable")

    @cached_property
    def by_age(self) -> Rows:
        """All rows, newest first."""
        return np.argsort(-self.created_at, kind="stable")

    @cached_property
    def by_creator(self) -> tuple[NDArray[np.int64], Ragged]:
        """Sorted creator ids, and each one's rows newest first."""
        order = np.lexsort((-self.created_at, self.creator_ids))
        creators, starts = np.unique(self.creator_ids[order], return_index=True)
        offsets = np.append(starts, len(order)).astype(np.int64)
        # Weights of nothing, in the room of one number.
        none = np.broadcast_to(np.zeros(1, dtype=np.float32), len(order))
        return creators, Ragged(offsets, order.astype(np.int64, copy=False), none)

    def creator_rows(self, creator_id: int) -> Rows:
        """Rows of one creator's posts, newest first."""
        creators, lists = self.by_creator
        return lists.list_of(find_row(creators, creator_id))

    def rows_by_creators(self, creator_ids: NDArray[np.int64]) -> tuple[Rows, NDArray[np.int64]]:
        """Rows of the creators' posts, and each one's place in `creator_ids`: in their order, newest first."""
        creators, lists = self.by_creator
        return lists.several(find_rows(creators, creator_ids))


@dataclass(frozen=True)
class Lists:
    """Generated lists of catalogue rows, best first. Segment i of a kind is the code i of its vocabulary."""

    neighbours: Ragged
    trending: Ragged
    trending_by_language: Ragged
    popular: Ragged
    popular_by_country: Ragged
    popular_by_language: Ragged


@dataclass(frozen=True)
class Users:
    """What the log says of each user, by row of the sorted `user_ids`."""

    user_ids: NDArray[np.int64]
    language_codes: NDArray[np.int16]
    country_codes: NDArray[np.int16]
    seen: Ragged
    """Catalogue rows seen; weight is how long before `as_of`, in seconds."""
    hidden: Ragged
    """Catalogue rows hidden."""
    blocked: Ragged
    """Creator ids blocked."""
    followed: Ragged
    """Creator ids followed."""

    def row_of(self, user_id: int) -> int:
        return find_row(self.user_ids, user_id)


@dataclass(frozen=True)
class Entities:
    """What the funnel does not need of users, creators and posts, and their readers ask for."""

    user_profile_codes: Ragged
    """By row of the users."""
    post_content_codes: Ragged
    """By row of the catalogue."""
    creator_ids: NDArray[np.int64]
    creator_language_codes: NDArray[np.int16]
    creator_country_codes: NDArray[np.int16]
    external_user_ids: Texts | None = None
    external_creator_ids: Texts | None = None


@dataclass(frozen=True)
class SampleUser:
    """A user worth looking at, for pages and demonstrations."""

    user_id: int
    external_id: str
    country: str | None
    language: str | None
    num_engagements: int
    topic_ids: tuple[int, ...]


@dataclass(frozen=True)
class Snapshot:
    """Everything serving knows from the log."""

    snapshot_id: str
    as_of: float
    """Unix seconds; nothing known later is inside."""
    data_version: str
    catalogue: Catalogue
    lists: Lists
    users: Users
    sample_users: tuple[SampleUser, ...] = ()
    surfaces: tuple[str, ...] = ()
    topic_names: Mapping[int, str] = field(default_factory=dict)
    external_post_ids: Texts | None = None
    external_creator_ids: Texts | None = None
    entities: Entities | None = None
    journal_place: int = 0
    """Place of the last journal event that the log held when this was built."""

    def external_post_id(self, row: int) -> str:
        """The product's own id of a post."""
        if self.external_post_ids is None:
            return str(int(self.catalogue.post_ids[row]))
        return self.external_post_ids.text(row)

    def external_creator_id(self, row: int) -> str:
        """The product's own id of a post's creator."""
        if self.external_creator_ids is None:
            return str(int(self.catalogue.creator_ids[row]))
        return self.external_creator_ids.text(row)


def room_for(count: int) -> int:
    """Spare rows kept behind `count` posts or users for those that come before the next snapshot."""
    return max(4_096, count // 8)


def save_snapshot(workspace: Workspace, snapshot: Snapshot) -> Path:
    """The folder written; running servers take it over within seconds. Older ones but the last go.

    Servers map the files of a snapshot: a folder is replaced as a whole and never written to.
    """
    with exclusive(workspace.snapshot, "snapshot"):
        folder = workspace.snapshot / snapshot.snapshot_id
        draft = Path(tempfile.mkdtemp(dir=workspace.snapshot, prefix=".draft."))
        try:
            _write_arrays(draft, snapshot)
            draft.chmod(0o755)  # mkdtemp makes it private
            if folder.exists():
                folder.rename(workspace.snapshot / f"{draft.name}.retired")
            draft.rename(folder)
            sync_folder(workspace.snapshot)
            before = current_id(workspace)
            write_atomically(workspace.snapshot / "current.json", json.dumps({"snapshot_id": snapshot.snapshot_id}))
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        kept = {snapshot.snapshot_id, before}
        for other in workspace.snapshot.iterdir():
            if other.is_dir() and other.name not in kept:
                shutil.rmtree(other, ignore_errors=True)
    return folder


def current_id(workspace: Workspace) -> str | None:
    """Id of the snapshot that serves, None before one was built."""
    try:
        return str(json.loads((workspace.snapshot / "current.json").read_text())["snapshot_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_arrays(folder: Path, snapshot: Snapshot) -> None:
    arrays = dict(_arrays_of(snapshot))
    for name, array in arrays.items():
        with (folder / f"{name}.npy").open("wb") as file:
            np.save(file, array, allow_pickle=False)
            if name in _ROOMY:
                # A hole in the file: processes map it and write their new rows in private pages.
                file.truncate(file.tell() + room_for(len(array)) * (array.nbytes // max(len(array), 1)))
    shapes = {name: [str(array.dtype), list(array.shape)] for name, array in arrays.items()}
    sums = {name: file_hash(folder / f"{name}.npy") for name in arrays}
    manifest = _manifest(snapshot) | {"arrays": shapes, "sha256": sums}
    write_atomically(folder / "manifest.json", json.dumps(manifest, indent=1))


def load_snapshot(workspace: Workspace) -> Snapshot:
    """The current snapshot, memory-mapped. Raises MissingStageError before one was built, BundleError when damaged."""
    current = workspace.snapshot / "current.json"
    if not current.exists():
        raise MissingStageError("serving snapshot", current, "python -m serving snapshot")
    try:
        folder = workspace.snapshot / str(json.loads(current.read_text())["snapshot_id"])
        manifest = json.loads((folder / "manifest.json").read_text())
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']}, this code reads {FORMAT}")
        for name, expected in manifest.get("sha256", {}).items():  # snapshots from before there were sums have none
            if file_hash(folder / f"{name}.npy") != expected:
                raise ValueError(f"{name}.npy is not as it was written")
        arrays = {name: _load_array(folder, name, *shape) for name, shape in manifest["arrays"].items()}
        return _assemble(manifest, arrays)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"the serving snapshot under {workspace.snapshot} is damaged ({error}); run `python -m serving snapshot`"
        ) from error


def _load_array(folder: Path, name: str, dtype: str, shape: list[int]) -> NDArray[Any]:
    if name in _ROOMY and 0 not in shape:
        return _load_roomy(folder / f"{name}.npy", dtype, shape)
    # np.memmap cannot map an empty file; a plain ndarray view drops memmap's slow indexing.
    mapped = np.load(folder / f"{name}.npy", mmap_mode=None if 0 in shape else "r", allow_pickle=False)
    if str(mapped.dtype) != dtype or list(mapped.shape) != shape:
        raise ValueError(f"{name}.npy is {mapped.dtype} {mapped.shape}, the manifest says {dtype} {shape}")
    return np.asarray(mapped)


def _load_roomy(path: Path, dtype: str, shape: list[int]) -> NDArray[Any]:
    """The first rows of an array that is mapped with its room, copied page by page where it is written to."""
    own = np.load(path, mmap_mode="r", allow_pickle=False)
    if str(own.dtype) != dtype or list(own.shape) != shape:
        raise ValueError(f"{path.name} is {own.dtype} {own.shape}, the manifest says {dtype} {shape}")
    longer = (shape[0] + room_for(shape[0]), *shape[1:])
    if path.stat().st_size < own.offset + own.nbytes // shape[0] * longer[0]:
        raise ValueError(f"{path.name} lacks the room behind its rows")
    return np.asarray(np.memmap(path, own.dtype, "c", own.offset, longer))[: shape[0]]


_CATALOGUE = (
    "post_ids", "creator_ids", "topic_ids", "language_codes", "country_codes", "media_codes", "created_at",
    "duration_seconds", "integrity", "is_recommendable", "num_impressions", "popularity",
    "report_rate", "content",
)  # fmt: skip
_LISTS = ("neighbours", "trending", "trending_by_language", "popular", "popular_by_country", "popular_by_language")
_USERS = ("user_ids", "language_codes", "country_codes")
_USER_LISTS = ("seen", "hidden", "blocked", "followed")
_ROOMY = frozenset([*(f"post.{n}" for n in _CATALOGUE), "user.language_codes", "user.country_codes"])
_ENTITY_LISTS = ("user_profile_codes", "post_content_codes")
_ENTITY_ARRAYS = ("creator_ids", "creator_language_codes", "creator_country_codes")
_ENTITY_TEXTS = ("external_user_ids", "external_creator_ids")


def _arrays_of(snapshot: Snapshot) -> list[tuple[str, NDArray[Any]]]:
    arrays: list[tuple[str, NDArray[Any]]] = [(f"post.{n}", getattr(snapshot.catalogue, n)) for n in _CATALOGUE]
    arrays += [(f"user.{n}", getattr(snapshot.users, n)) for n in _USERS]
    ragged = [(n, getattr(snapshot.lists, n)) for n in _LISTS] + [(n, getattr(snapshot.users, n)) for n in _USER_LISTS]
    named = [
        ("external_post_ids", snapshot.external_post_ids),
        ("external_creator_ids", snapshot.external_creator_ids),
    ]
    if (entities := snapshot.entities) is not None:
        arrays += [(f"entity.{n}", getattr(entities, n)) for n in _ENTITY_ARRAYS]
        ragged += [(f"entity.{n}", getattr(entities, n)) for n in _ENTITY_LISTS]
        named += [(f"entity.{n}", getattr(entities, n)) for n in _ENTITY_TEXTS]
    for name, lists in ragged:
        arrays += [(f"{name}.{part}", getattr(lists, part)) for part in Ragged._fields]
    for name, texts in named:
        if texts is not None:
            arrays += [(f"{name}.{part}", getattr(texts, part)) for part in Texts._fields]
    return arrays


def _manifest(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "snapshot_id": snapshot.snapshot_id,
        "as_of": snapshot.as_of,
        "data_version": snapshot.data_version,
        "journal_place": snapshot.journal_place,
        "languages": snapshot.catalogue.languages,
        "countries": snapshot.catalogue.countries,
        "media_types": snapshot.catalogue.media_types,
        "surfaces": snapshot.surfaces,
        "topic_names": {str(topic): name for topic, name in snapshot.topic_names.items()},
        "sample_users": [vars(user) for user in snapshot.sample_users],
    }


def _assemble(manifest: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Snapshot:
    def ragged(name: str) -> Ragged:
        return Ragged(*(arrays[f"{name}.{part}"] for part in Ragged._fields))

    def texts(name: str) -> Texts | None:
        parts = [arrays.get(f"{name}.{part}") for part in Texts._fields]
        return None if parts[0] is None or parts[1] is None else Texts(parts[0], parts[1])

    catalogue = Catalogue(
        **{n: arrays[f"post.{n}"] for n in _CATALOGUE},
        languages=tuple(manifest["languages"]),
        countries=tuple(manifest["countries"]),
        media_types=tuple(manifest["media_types"]),
    )
    users = Users(
        arrays["user.user_ids"],
        arrays["user.language_codes"],
        arrays["user.country_codes"],
        **{n: ragged(n) for n in _USER_LISTS},
    )
    samples = tuple(SampleUser(**{**u, "topic_ids": tuple(u["topic_ids"])}) for u in manifest["sample_users"])
    return Snapshot(
        snapshot_id=manifest["snapshot_id"],
        as_of=manifest["as_of"],
        data_version=manifest["data_version"],
        catalogue=catalogue,
        lists=Lists(**{n: ragged(n) for n in _LISTS}),
        users=users,
        sample_users=samples,
        surfaces=tuple(manifest["surfaces"]),
        topic_names={int(topic): name for topic, name in manifest["topic_names"].items()},
        external_post_ids=texts("external_post_ids"),
        external_creator_ids=texts("external_creator_ids"),
        entities=_entities(arrays, ragged, texts),
        journal_place=int(manifest["journal_place"]),
    )


def _entities(
    arrays: dict[str, NDArray[Any]], ragged: Callable[[str], Ragged], texts: Callable[[str], Texts | None]
) -> Entities | None:
    if "entity.creator_ids" not in arrays:
        return None
    return Entities(
        ragged("entity.user_profile_codes"),
        ragged("entity.post_content_codes"),
        arrays["entity.creator_ids"],
        arrays["entity.creator_language_codes"],
        arrays["entity.creator_country_codes"],
        texts("entity.external_user_ids"),
        texts("entity.external_creator_ids"),
    )
