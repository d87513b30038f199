"""Recipes: functions that return everything that decides a training run, by name.

`default` is what the platform serves. `semantic` adds semantic ids of the content to it. `reference` is a fixed
point to compare with: balanced binary cross-entropy, Adam at 0.1 decayed by 0.9 per epoch, batches of 128, at
most 100 epochs.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from core.errors import ConfigError
from models.features import Feature
from models.first_stage import FirstStageConfig
from models.second_stage import SecondStageConfig
from models.towers import TowerConfig
from training.balancing import Balance
from training.fit_first_stage import FirstStageRun
from training.fit_retrieval import RetrievalConfig
from training.fit_second_stage import SecondStageRun
from training.loop import LoopConfig
from training.recipe_features import (
    Widths,
    cross_features,
    foundation_features,
    post_features,
    post_identity,
    semantic_features,
    user_features,
)

RECIPES = ("default", "semantic", "reference")

REFERENCE_LOOP = LoopConfig(
    batch_size=128,
    max_epochs=100,
    learning_rate=0.1,
    table_learning_rate=0.1,
    schedule="exponential",
    decay=0.9,
    validations_per_epoch=1,
    patience=3,
)

SMALL_SET_ROWS = 200_000
"""Below this, large batches leave a network too few steps: on 116 k rows of KuaiRand, batches of 4,096 ended at
a click AUC of 0.741, batches of 512 at 0.748 and batches of 256 at 0.751."""

SMALL_SET_NETWORKS = 3
"""Averaged on small sets, where the click AUC of one network moves by 0.001 with its seed."""

ROWS_PER_POST = 10
"""Examples a post needs on average before a vector of its own says more than noise."""

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Recipe:
    """One full run config: features with table sizes, network, loop, row weights, seed."""

    kind: Literal["retrieval", "first_stage", "second_stage"]
    name: str
    features: tuple[Feature, ...]
    run: RetrievalConfig | FirstStageRun | SecondStageRun
    row_weights: Literal["sampling", "balanced"]
    seed: int
    upsampled: str = ""
    """Column of an entity whose rare members' rows are repeated; "" for none."""

    def config(self) -> dict[str, Any]:
        """The whole config as plain values; features as one line each."""
        fields = asdict(self)
        fields["features"] = {f.name: _line(f) for f in self.features}
        return fields


def _line(feature: Feature) -> str:
    table = f" {feature.table}[{feature.num_rows}x{feature.dim}]" if feature.is_indexed else ""
    if feature.hashing != "plain" or feature.min_count > 1:
        table += f" {feature.hashing} from {feature.min_count}"
    return f"{feature.side} {feature.kind} {feature.transform}{table}"


def _checked(name: str, quick: bool, loop: LoopConfig) -> LoopConfig:
    if name not in RECIPES:
        raise ConfigError(f"recipe {name!r} does not exist; choose one of {', '.join(RECIPES)}")
    chosen = REFERENCE_LOOP if name == "reference" else loop
    return replace(chosen, max_epochs=1, validations_per_epoch=1) if quick else chosen


def retrieval(columns: Columns, name: str = "default", seed: int = 0, quick: bool = False) -> Recipe:
    """Two towers over all user and post features. `columns` are training rows; they size the id tables."""
    widths = Widths()
    features = [*user_features(columns, widths, history_length=30), *post_features(columns, widths)]
    features += _semantic(name, widths)
    base = RetrievalConfig(softmax_weight=0.0, balance=Balance("click")) if name == "reference" else RetrievalConfig()
    run = replace(base, loop=_checked(name, quick, base.loop))
    return Recipe("retrieval", name, tuple(features), run, "sampling", seed)


def second_stage(columns: Columns, name: str = "default", seed: int = 0, quick: bool = False) -> Recipe:
    """Every engagement from user, post and cross features. `columns` are training rows; they size the id tables."""
    widths = Widths(post=8)
    network = SecondStageConfig()
    features = [*user_features(columns, widths, network.history_length), *post_features(columns, widths)]
    post_keys = columns["post_profile__post_key"]
    if len(post_keys) >= ROWS_PER_POST * len(np.unique(post_keys)):
        features.append(post_identity(columns, widths))
    else:  # Without the candidate's own vector the history's posts have nothing to be compared with.
        features = [f for f in features if f.name != "user_history__history_post_ids"]
    features += _semantic(name, widths)
    if "post_foundation__vector" in columns:
        features += foundation_features()
    base = SecondStageRun(network=network)
    if len(post_keys) < SMALL_SET_ROWS:
        small = replace(base.loop, batch_size=256, learning_rate=1e-3, table_learning_rate=0.02)
        network = replace(network, dropout=0.2, num_networks=SMALL_SET_NETWORKS)
        # Forty requests are too few users for a batch.
        base = SecondStageRun(network=network, loop=small, batches_of="rows")
    run = replace(base, loop=_checked(name, quick, base.loop))
    return Recipe("second_stage", name, (*features, *cross_features()), run, _weights(name), seed)


def first_stage(columns: Columns, name: str = "default", seed: int = 0, quick: bool = False) -> Recipe:
    """Two light towers that predict the second stage's choice. `columns` are training rows; they size the id tables."""
    widths = Widths(post=8, creator=8, topic=8)
    features = [*user_features(columns, widths, history_length=20), *post_features(columns, widths)]
    features += _semantic(name, widths)
    base = FirstStageRun(network=FirstStageConfig(TowerConfig(hidden=(128, 64))))
    run = replace(base, loop=_checked(name, quick, base.loop))
    return Recipe("first_stage", name, tuple(features), run, _weights(name), seed)


def _semantic(name: str, widths: Widths) -> list[Feature]:
    return semantic_features(widths) if name == "semantic" else []


def _weights(name: str) -> Literal["sampling", "balanced"]:
    return "balanced" if name == "reference" else "sampling"
