"""The first stage: a second two-tower network that predicts PSelect.

PSelect: is this post among the top K of the second stage for this request? The network is the
retrieval's own, with one task, so that both sides stay cacheable and a thousand posts rank as one
matrix product.
"""

from dataclasses import dataclass, field

from models.features import FeatureSpec
from models.towers import TowerConfig, TwoTower


@dataclass(frozen=True)
class FirstStageConfig:
    """Shape of the towers and what counts as selected."""

    towers: TowerConfig = field(default_factory=TowerConfig)
    top_k: int = 100
    """Ranks below this are selected; a request with fewer than twice as many candidates selects half."""


def build_first_stage(spec: FeatureSpec, config: FirstStageConfig, *, is_training: bool) -> TwoTower:
    """The network; refuses cross features, which no cached vector could carry."""
    if spec.side("cross"):
        raise ValueError(f"the first stage has no cross features, got {', '.join(spec.columns('cross'))}")
    return TwoTower(spec, config.towers, 1, is_training=is_training)
