"""A training set as its gate sees it: plain arrays, from memory or from the files of `training_sets/<name>/`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.errors import GateError, MissingStageError
from core.schema import HEADS, NEGATIVE_HEADS
from feature_repo.catalog import FIELDS
from feature_repo.columns import Columns
from validation.leakage import Probe

_CREATOR = "post_profile__creator_id"


@dataclass(frozen=True)
class TrainingRows:
    """Features by `view__feature`, labels [N, len(HEADS)] with NaN unobserved, ids, times, weights.

    A feature has a row per example, [N] or [N, L]; those named in `user_columns` have one per request, and `user_of`
    [N] says which.
    """

    columns: Columns
    labels: NDArray[np.float32]
    user_ids: NDArray[np.int64]
    post_ids: NDArray[np.int64]
    served_at: NDArray[np.float64]
    weights: NDArray[np.float32]
    user_columns: frozenset[str] = frozenset()
    user_of: NDArray[np.int32] | None = None

    def column(self, name: str, take: NDArray[np.int64]) -> NDArray[Any]:
        """Values of one feature for the given examples."""
        is_shared = self.user_of is not None and name in self.user_columns
        return self.columns[name][self.user_of[take] if is_shared else take]  # type: ignore[index]

    def __len__(self) -> int:
        return len(self.user_ids)

    @property
    def is_labelled(self) -> bool:
        return bool(len(self) and not np.isnan(self.labels[:: max(1, len(self) // 10_000)]).all())


def load_training_rows(folder: Path) -> TrainingRows:
    """The set below `folder` as memory-mapped arrays.

    Raises MissingStageError before it was built, GateError when a file is missing or of another length.
    """
    manifest_path = folder / "manifest.json"
    if not manifest_path.exists():
        raise MissingStageError(f"training set {folder.name}", manifest_path, "python -m training sets")
    try:
        manifest: dict[str, Any] = json.loads(manifest_path.read_text())
        num_rows, names = int(manifest["rows"]), [name for name in manifest["columns"] if name in FIELDS]
        shared, num_users = frozenset(manifest.get("user_columns", ())), int(manifest.get("user_rows", 0))
    except (ValueError, KeyError, TypeError) as error:
        raise GateError(f"{manifest_path} is not a training set manifest ({error!r}); build the set again") from error
    columns = {
        name: _load(folder / "columns" / f"{name}.npy", num_users if name in shared else num_rows) for name in names
    }
    parts = {
        name: _load(folder / f"{name}.npy", num_rows)
        for name in ("labels", "user_ids", "post_ids", "served_at", "weights")
    }
    user_of = _load(folder / "user_of.npy", num_rows) if shared else None
    return TrainingRows(columns, **parts, user_columns=shared, user_of=user_of)


def training_frame(rows: TrainingRows, max_rows: int) -> pd.DataFrame:
    """An even sample of at most `max_rows` rows as the suite judges them; int nulls (-1) become NaN."""
    take = _even(len(rows), max_rows)
    frame: dict[str, NDArray[Any]] = {
        "user_id": rows.user_ids[take],
        "post_id": rows.post_ids[take],
        "served_at": rows.served_at[take],
        "weight": rows.weights[take],
    }
    labels = np.asarray(rows.labels[take])
    frame |= {f"label_{head}": labels[:, place] for place, head in enumerate(HEADS)}
    positive = [place for place, head in enumerate(HEADS) if head not in NEGATIVE_HEADS]
    frame["is_positive"] = np.any(labels[:, positive] > 0.5, axis=1).astype(np.float32)
    frame |= {name: _floats(name, rows.column(name, take)) for name in _scalars(rows.columns)}
    return pd.DataFrame(frame)


def probe(rows: TrainingRows, max_rows: int) -> Probe:
    """An even sample of at most `max_rows` rows for the leak check."""
    take = _even(len(rows), max_rows)
    creators = rows.column(_CREATOR, take) if _CREATOR in rows.columns else np.full(len(take), -1)
    return Probe(
        {
            "user": np.asarray(rows.user_ids[take], dtype=np.int64),
            "post": np.asarray(rows.post_ids[take], dtype=np.int64),
            "creator": np.asarray(creators, dtype=np.int64),
        },
        np.asarray(rows.served_at[take], dtype=np.float64),
        {name: np.asarray(rows.column(name, take), dtype=np.float64) for name in _scalars(rows.columns)},
    )


def _scalars(columns: Mapping[str, NDArray[Any]]) -> list[str]:
    """Numeric scalar features that the catalogue declares."""
    return [name for name in columns if name in FIELDS and FIELDS[name].dtype in ("float", "int")]


def _floats(name: str, values: NDArray[Any]) -> NDArray[Any]:
    return np.where(values == -1, np.nan, values) if FIELDS[name].dtype == "int" else np.asarray(values)


def _even(num_rows: int, most: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, num_rows - 1, min(num_rows, most)).round().astype(np.int64))


def _load(path: Path, num_rows: int) -> NDArray[Any]:
    try:
        values: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise GateError(f"{path} cannot be read ({error}); run `python -m training sets` again") from error
    if len(values) != num_rows:
        raise GateError(f"{path} has {len(values):,} rows, the manifest says {num_rows:,}; build the set again")
    return values
