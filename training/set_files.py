"""Training sets on disk: one .npy per column, strings as codes with a vocabulary, and a manifest.

    training_sets/<name>/
      manifest.json                what it was made from, rows per split, columns, content hash
      columns/<view__feature>.npy  values; text columns hold codes into the manifest's vocabulary
      user_of.npy                  row of the user's columns, which are stored once per request, for each example
      labels.npy user_ids.npy post_ids.npy request_ids.npy served_at.npy weights.npy split.npy

Rows are in order of serve time, so each split is a range and loads as memory-mapped views.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from core.errors import InputError, MissingStageError
from core.files import content_hash, file_hash, sync_folder, write_atomically
from models.features import Columns
from training.examples import Examples, RequestColumns
from training.splits import SPLITS


@dataclass(frozen=True)
class SetManifest:
    """What a training set is. `set_id` hashes the bytes of every file, `inputs_id` what it was made from."""

    name: str
    set_id: str
    inputs_id: str
    service: str
    data_version: str
    rows: int
    rows_by_split: dict[str, int]
    columns: list[str]
    vocabularies: dict[str, list[str]]
    config: dict[str, Any]
    user_columns: list[str] = field(default_factory=list)
    """Those of `columns` that have a row per request."""
    user_rows: int = 0

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True)


@dataclass
class SetWriter:
    """Fills the column files of one set chunk by chunk; all chunks have the same columns."""

    folder: Path
    num_rows: int
    _arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    _codes: dict[str, dict[str, int]] = field(default_factory=dict)

    def write(self, start: int, columns: dict[str, NDArray[Any]]) -> None:
        """Puts `columns` (name to [n, ...]) at rows start .. start + n. Raises InputError when columns differ."""
        if start and set(columns) != set(self._arrays):
            odd = sorted(set(columns) ^ set(self._arrays))
            raise InputError(
                f"chunk at row {start} of {self.folder.name} differs in columns {odd[:5]}; build features anew"
            )
        for name, values in columns.items():
            stored = self._encode(name, values) if values.dtype.kind in "OU" else values
            if name not in self._arrays:
                path = self.folder / "columns" / f"{name}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                shape = (self.num_rows, *stored.shape[1:])
                self._arrays[name] = np.lib.format.open_memmap(path, mode="w+", dtype=stored_dtype(stored), shape=shape)
            target = self._arrays[name]
            if target.dtype.kind == "i" and stored.size and not _fits(stored, target.dtype):
                target = self._widen(name)
            target[start : start + len(stored)] = stored

    def _encode(self, name: str, values: NDArray[Any]) -> NDArray[np.int32]:
        codes = self._codes.setdefault(name, {})
        encoded = pa.array(values, pa.string()).fill_null("").dictionary_encode()
        mapped = np.array(
            [codes.setdefault(text, len(codes)) for text in encoded.dictionary.to_pylist()], dtype=np.int32
        )
        coded: NDArray[np.int32] = mapped[encoded.indices.to_numpy(zero_copy_only=False)]
        return coded

    def _widen(self, name: str) -> NDArray[Any]:
        path = self.folder / "columns" / f"{name}.npy"
        wide = self._arrays[name].astype(np.int64)
        self._arrays[name] = np.lib.format.open_memmap(path, mode="w+", dtype=np.int64, shape=wide.shape)
        self._arrays[name][:] = wide
        return self._arrays[name]

    def vocabularies(self) -> dict[str, list[str]]:
        """Text of each code per text column."""
        return {name: list(codes) for name, codes in self._codes.items()}

    def columns(self) -> list[str]:
        """Names written so far, sorted."""
        return sorted(self._arrays)

    def flush(self) -> None:
        for array in self._arrays.values():
            array.flush()  # type: ignore[attr-defined]
        self._arrays.clear()


def stored_dtype(values: NDArray[Any]) -> np.dtype[Any]:
    """The type a column is kept in: float32, bool, or the narrower of int32 and int64 that holds it."""
    if values.dtype.kind == "f":
        return np.dtype(np.float32)
    if values.dtype.kind in "iu":
        return np.dtype(np.int32) if _fits(values, np.dtype(np.int32)) else np.dtype(np.int64)
    return values.dtype


def _fits(values: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    bounds = np.iinfo(dtype)
    return not values.size or (int(values.min()) >= bounds.min and int(values.max()) <= bounds.max)


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `final` when the block ends well, else vanishes."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}."))
    try:
        yield temporary
        retired = final.parent / f".{final.name}.retired"
        shutil.rmtree(retired, ignore_errors=True)
        if final.exists():
            final.rename(retired)
        temporary.chmod(0o755)  # mkdtemp makes it private
        temporary.rename(final)
        sync_folder(final.parent)
        shutil.rmtree(retired, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def folder_hash(folder: Path) -> str:
    """Content hash over the names and bytes of every .npy below `folder`."""
    files = sorted(folder.rglob("*.npy"))
    return content_hash([part for file in files for part in (str(file.relative_to(folder)), file_hash(file))], 16)


@dataclass(frozen=True)
class ExampleSet:
    """One training set on disk, read as memory-mapped arrays."""

    folder: Path
    manifest: SetManifest

    def examples(self, *splits: str) -> Examples:
        """The rows of the named splits, all of them without names; views of the files where they adjoin."""
        part = self._load("split")
        wanted = [SPLITS.index(name) for name in splits] or list(range(len(SPLITS)))
        rows = np.flatnonzero(np.isin(part, wanted))
        is_range = len(rows) > 0 and rows[-1] - rows[0] + 1 == len(rows)
        take: slice | NDArray[np.int64] = slice(int(rows[0]), int(rows[-1]) + 1) if is_range else rows
        own = {n: self._column(n, take) for n in self.manifest.columns if n not in self.manifest.user_columns}
        return Examples(
            columns=self._with_users(own, take) if self.manifest.user_columns else own,
            labels=self._load("labels")[take],
            user_ids=self._load("user_ids")[take],
            post_ids=self._load("post_ids")[take],
            request_ids=self._load("request_ids")[take],
            served_at=self._load("served_at")[take],
            weights=self._load("weights")[take],
        )

    def _with_users(self, own: Columns, take: slice | NDArray[np.int64]) -> RequestColumns:
        user_of = self._load("user_of")[take]
        # Rows in order of time have users in order of time: what a split needs is a range here too.
        first, after = (int(user_of.min()), int(user_of.max()) + 1) if len(user_of) else (0, 0)
        users = {name: self._column(name, slice(first, after)) for name in self.manifest.user_columns}
        return RequestColumns(own, users, user_of - first)

    def _load(self, name: str) -> NDArray[Any]:
        array: NDArray[Any] = np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return array

    def _column(self, name: str, take: slice | NDArray[np.int64]) -> NDArray[Any]:
        stored = self._load(f"columns/{name}")[take]
        texts = self.manifest.vocabularies.get(name)
        return stored if texts is None else np.array(texts, dtype=object)[stored]


def load_set(root: Path, name: str) -> ExampleSet:
    """The set `name` below `root`. Raises MissingStageError before it was built, InputError when it is damaged."""
    path = root / name / "manifest.json"
    if not path.exists():
        raise MissingStageError(f"training set {name}", path, "python -m training sets")
    try:
        return ExampleSet(path.parent, SetManifest(**json.loads(path.read_text())))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path} is not a training set manifest ({error}); run `python -m training sets --force`"
        ) from error


def write_manifest(folder: Path, manifest: SetManifest) -> None:
    write_atomically(folder / "manifest.json", manifest.to_json())
