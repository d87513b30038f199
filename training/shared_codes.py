"""Semantic ids that one model hands to the next: retrieval's codebooks and the rows of its coarse codes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from core.errors import MissingStageError
from core.settings import Settings
from models.bundle import RetrievalBundle, load_bundle
from training.publish import champion_bundle
from training.recipes import Recipe

COARSE_LEVELS = 1
"""Levels whose rows are handed on. Finer ones remember single posts and what became of them in the very rows that the
next model learns from: with all three its click AUC fell by .002."""


@dataclass(frozen=True)
class SharedCodes:
    """Codebooks by content column, and weights by table."""

    codebooks: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    tables: Mapping[str, Tensor] = field(default_factory=dict)
    bundle_id: str = ""
    """Whose they are; "" for nobody's."""


def codes_of_bundle(bundle: RetrievalBundle) -> SharedCodes:
    """The codebooks of a bundle and the weights of the tables that its coarse semantic ids read."""
    names = {f.table for f in bundle.spec.features if 0 < f.level <= COARSE_LEVELS}
    tables = {path.split(".")[1]: weight for path, weight in bundle.module.tables.export().items()}
    return SharedCodes(bundle.spec.codebooks, {name: tables[name] for name in names}, bundle.bundle_id if names else "")


def shared_codes(settings: Settings, recipe: Recipe) -> SharedCodes:
    """What retrieval's champion hands to a later stage; nothing where the recipe or the champion has no semantic ids.

    Raises BundleError for a champion that is damaged.
    """
    if recipe.kind == "retrieval" or not any(f.level for f in recipe.features):
        return SharedCodes()
    try:
        path = champion_bundle(settings, "retrieval")
    except MissingStageError:
        return SharedCodes()
    bundle = load_bundle(path)
    return codes_of_bundle(bundle) if isinstance(bundle, RetrievalBundle) else SharedCodes()
