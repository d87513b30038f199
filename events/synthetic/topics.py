"""The two-level topic tree: directions of leaves in the latent space, their popularity and their habits."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.schema import HEADS
from events.synthetic.config import WorldConfig

_TOPICAL_HEADS = ("comment", "share", "save")


@dataclass(frozen=True)
class Topics:
    """Leaves in topic-major order: leaf `l` belongs to topic `l // num_subtopics`."""

    vectors: NDArray[np.float32]  # [leaves, latent], unit
    popularity: NDArray[np.float64]  # [leaves], sums to 1
    effects: NDArray[np.float32]  # [leaves, heads], logits
    life_speed: NDArray[np.float32]  # [leaves], multiplies how fast appeal fades
    num_subtopics: int

    @property
    def num_leaves(self) -> int:
        return len(self.popularity)


def draw_topics(config: WorldConfig, rng: np.random.Generator) -> Topics:
    """The tree: orthogonal topics, subtopics around each, Zipf popularity on both levels."""
    shape = config.topics
    basis = np.linalg.qr(rng.standard_normal((shape.latent_dim, shape.latent_dim)))[0]
    roots = basis[: shape.num_topics].repeat(shape.num_subtopics, axis=0)
    own = rng.standard_normal((len(roots), shape.latent_dim))
    own -= (own * roots).sum(axis=1, keepdims=True) * roots
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    vectors = np.sqrt(1 - shape.subtopic_share) * roots + np.sqrt(shape.subtopic_share) * own
    effects = np.zeros((len(roots), len(HEADS)))
    for head in _TOPICAL_HEADS:
        effects[:, HEADS.index(head)] = shape.effect_deviation * rng.standard_normal(len(roots))
    return Topics(
        vectors=vectors.astype(np.float32),
        popularity=_zipf_tree(shape.num_topics, shape.num_subtopics, shape.zipf_exponent, rng),
        effects=effects.astype(np.float32),
        life_speed=np.exp(shape.life_deviation * rng.standard_normal(len(roots))).astype(np.float32),
        num_subtopics=shape.num_subtopics,
    )


def _zipf_tree(num_topics: int, num_subtopics: int, exponent: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Popularity of each leaf: Zipf over topics times Zipf over subtopics, ranks in random order."""
    top = (1.0 + rng.permutation(num_topics)) ** -exponent
    sub = np.stack([(1.0 + rng.permutation(num_subtopics)) ** -exponent for _ in range(num_topics)])
    leaf = (top[:, None] * sub / sub.sum(axis=1, keepdims=True)).ravel()
    return np.asarray(leaf / leaf.sum(), dtype=np.float64)
