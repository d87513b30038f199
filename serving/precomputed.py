"""Slates on disk: made off-peak for chosen users, mapped into memory by every worker.

precomputed/
  current.json      which folder counts
  <id>/about.json   versions, names and sizes
  <id>/*.npy        one array per fact, U users by K posts, post id -1 behind the end of a short slate
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from core.files import content_hash, write_atomically
from core.logs import logger
from serving.funnel.request import Slate

_LOOK_SECONDS = 2.0
"""How often a worker looks for newer slates."""
NOBODY = -1
"""In the place of the lowest user id, once that user is deleted."""
_ARRAYS = ("user_ids", "made_at", "post_ids", "scores", "propensities", "source_bits", "rules", "probabilities")


@dataclass(frozen=True)
class About:
    """What holds for every slate of a folder."""

    surface: str
    spec_version: str
    model_versions: dict[str, str]
    source_names: tuple[str, ...]
    heads: tuple[str, ...]
    weights: tuple[float, ...]
    rule_names: tuple[str, ...]


@dataclass(frozen=True)
class StoredSlate:
    """One user's slate, K posts. Scores and probabilities as float32."""

    about: About
    made_at: datetime
    post_ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    propensities: NDArray[np.float64]
    source_bits: NDArray[np.uint32]
    rules: tuple[tuple[str, ...], ...]
    probabilities: NDArray[np.float32]


def save_slates(folder: Path, slates: Sequence[Slate], size: int) -> Path:
    """Replaces what is served by `slates`, their first `size` posts each; they are of one spec and set of models.

    Raises InputError for none, or for slates of several versions.
    """
    if not slates:
        raise InputError("no slate to keep: no user was chosen")
    first = slates[0]
    if any((s.spec_version, s.model_versions) != (first.spec_version, first.model_versions) for s in slates):
        raise InputError("slates of several specs or models cannot be kept together; precompute again")
    names = tuple(sorted({rule for slate in slates for rules in slate.rules for rule in rules}))
    about = About(
        first.surface, first.spec_version, dict(first.model_versions), first.source_names, first.heads, first.weights,
        names,
    )  # fmt: skip
    arrays = _arrays(sorted(slates, key=lambda slate: slate.user_id), size, about)
    name = content_hash([first.spec_version, *(array.tobytes() for array in arrays.values())])
    target = folder / name
    temporary = folder / f".{name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for array_name, array in arrays.items():
        np.save(temporary / f"{array_name}.npy", array)
    write_atomically(temporary / "about.json", json.dumps(asdict(about)))
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    write_atomically(folder / "current.json", json.dumps({"folder": name}))
    # Workers that still map the older folder keep its pages until they let go.
    for other in folder.iterdir():
        if other.is_dir() and other != target:
            shutil.rmtree(other, ignore_errors=True)
    return target


def _arrays(slates: Sequence[Slate], size: int, about: About) -> dict[str, NDArray[Any]]:
    count, num_heads = len(slates), len(about.heads)
    kept: dict[str, NDArray[Any]] = {
        "user_ids": np.array([slate.user_id for slate in slates], dtype=np.int64),
        "made_at": np.array([slate.served_at.timestamp() for slate in slates]),
        "post_ids": np.full((count, size), -1, dtype=np.int64),
        "scores": np.zeros((count, size), dtype=np.float32),
        "propensities": np.ones((count, size)),
        "source_bits": np.zeros((count, size), dtype=np.uint32),
        "rules": np.zeros((count, size), dtype=np.uint32),
        "probabilities": np.full((count, size, num_heads), np.nan, dtype=np.float32),
    }
    bit_of = {name: 1 << bit for bit, name in enumerate(about.rule_names)}
    for user, whole in enumerate(slates):
        slate = whole.head(size)
        n = len(slate)
        kept["post_ids"][user, :n] = slate.post_ids
        kept["scores"][user, :n] = slate.scores
        kept["propensities"][user, :n] = slate.propensities
        kept["source_bits"][user, :n] = slate.candidates.source_bits
        kept["rules"][user, :n] = [sum(bit_of[rule] for rule in rules) for rules in slate.rules]
        if slate.candidates.probabilities is not None:
            kept["probabilities"][user, :n] = slate.candidates.probabilities
    return kept


def forget_users(folder: Path, user_ids: Sequence[int]) -> int:
    """Number of slates erased, in the files that servers map: they are without them at once."""
    try:
        current = folder / str(json.loads((folder / "current.json").read_text())["folder"])
        arrays = {name: np.load(current / f"{name}.npy", mmap_mode="r+", allow_pickle=False) for name in _ARRAYS}
    except FileNotFoundError:  # none were made, or newer ones are just coming, which know of the deletion
        return 0
    places = np.flatnonzero(np.isin(arrays["user_ids"], np.array(user_ids, dtype=np.int64)))
    for place in places.tolist():
        for name in _ARRAYS[1:]:
            arrays[name][place] = -1 if name == "post_ids" else 0
        # Ids stay sorted: whoever looks for the one before finds that one's own place first.
        arrays["user_ids"][place] = arrays["user_ids"][place - 1] if place else NOBODY
    for array in arrays.values():
        array.flush()
    return len(places)


class PrecomputedSlates:
    """The slates that count now; newer ones are found by themselves. Threads may share it."""

    def __init__(self, folder: Path, max_age_seconds: float, is_enabled: bool = True) -> None:
        self._folder = folder
        self._max_age_seconds = max_age_seconds
        self._is_enabled = is_enabled
        self._lock = Lock()
        self._name: str | None = None
        self._looked_at = -np.inf
        self._about: About | None = None
        self._arrays: dict[str, NDArray[Any]] = {}

    def __len__(self) -> int:
        self._refresh()
        return len(self._arrays.get("user_ids", ()))

    def find(self, user_id: int, surface: str, at_seconds: float) -> StoredSlate | None:
        """The user's slate, None where none is held for the surface or it is older than the spec allows."""
        if not self._is_enabled:
            return None
        about, arrays = self._refresh()
        if about is None or about.surface != surface:
            return None
        users = arrays["user_ids"]
        place = int(np.searchsorted(users, user_id))
        if place == len(users) or users[place] != user_id:
            return None
        made_at = float(arrays["made_at"][place])
        if at_seconds - made_at > self._max_age_seconds:
            return None
        n = int(np.count_nonzero(arrays["post_ids"][place] >= 0))
        parts = {name: np.array(arrays[name][place, :n]) for name in _ARRAYS[2:] if name != "rules"}
        rules = tuple(
            tuple(name for bit, name in enumerate(about.rule_names) if bits >> bit & 1)
            for bits in arrays["rules"][place, :n].tolist()
        )
        return StoredSlate(about=about, made_at=datetime.fromtimestamp(made_at, UTC), rules=rules, **parts)

    def _refresh(self) -> tuple[About | None, dict[str, NDArray[Any]]]:
        with self._lock:
            if monotonic() - self._looked_at > _LOOK_SECONDS:
                self._looked_at = monotonic()
                self._load()
            return self._about, self._arrays

    def _load(self) -> None:
        """Maps the current folder; what cannot be read leaves what was there."""
        try:
            name = str(json.loads((self._folder / "current.json").read_text())["folder"])
            if name == self._name:
                return
            folder = self._folder / name
            fields: dict[str, Any] = json.loads((folder / "about.json").read_text())
            named: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
            about = About(**named)
            arrays = {n: np.load(folder / f"{n}.npy", mmap_mode="r", allow_pickle=False) for n in _ARRAYS}
            self._check(arrays, about)
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger("serving").warning("precomputed slates cannot be read", reason=str(error))
            return
        self._name, self._about, self._arrays = name, about, arrays

    def _check(self, arrays: dict[str, NDArray[Any]], about: About) -> None:
        count, size = arrays["post_ids"].shape
        shapes = dict.fromkeys(_ARRAYS[2:-1], (count, size)) | {
            "user_ids": (count,), "made_at": (count,), "probabilities": (count, size, len(about.heads)),
        }  # fmt: skip
        wrong = [name for name, shape in shapes.items() if arrays[name].shape != shape]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} do not match {count} users by {size} posts")
