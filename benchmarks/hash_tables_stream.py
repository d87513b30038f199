"""A stream of impressions with a long tail of entities that come and go, whose true effects are known.

Ids at one time are Zipf-distributed; each lives for a while and is then replaced by a new one of the same popularity.
The log odds of a click are a constant, four known features, and the id's own effect, drawn from a hash of the id.
Legend: N rows, F features.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.hashing import splitmix64

FEATURES = np.array([0.6, -0.4, 0.3, 0.2], dtype=np.float32)
BIAS = -1.5
EFFECT = 1.0
"""Standard deviation of the ids' effects; that of the features is .8."""
EXPONENT = 0.9


@dataclass(frozen=True)
class Chunk:
    """Rows of one time: ids [N], features [N, F], labels [N], and the log odds with and without the id's effect [N]."""

    ids: NDArray[np.int64]
    features: NDArray[np.float32]
    labels: NDArray[np.float32]
    logits: NDArray[np.float32]
    logits_of_features: NDArray[np.float32]


@dataclass(frozen=True)
class Stream:
    """`num_ids` ids at a time, each living `life` chunks."""

    num_ids: int
    life: int
    seed: int = 0

    def chunk(self, at: int, num_rows: int) -> Chunk:
        """The rows of time `at`; the same ones whenever asked."""
        rng = np.random.default_rng((self.seed, at))
        a = 1.0 - EXPONENT
        rank = (((self.num_ids + 1.0) ** a - 1.0) * rng.random(num_rows) + 1.0) ** (1.0 / a)
        slot = np.minimum(rank.astype(np.int64), self.num_ids) - 1
        born = (at + (splitmix64(slot.view(np.uint64)) % np.uint64(self.life)).astype(np.int64)) // self.life
        # Ids as products have them: anywhere in a wide range.
        ids = (splitmix64((slot + self.num_ids * born).view(np.uint64)) >> np.uint64(2)).view(np.int64)
        features = rng.normal(size=(num_rows, len(FEATURES))).astype(np.float32)
        known = (features @ FEATURES + BIAS).astype(np.float32)
        logits = known + effects(ids)
        labels = (rng.random(num_rows) < 1.0 / (1.0 + np.exp(-logits))).astype(np.float32)
        return Chunk(ids, features, labels, logits, known)


def effects(ids_N: NDArray[np.int64]) -> NDArray[np.float32]:
    """The true effect of each id: four uniform numbers from its hash, summed; nearly normal."""
    bits = splitmix64(ids_N.view(np.uint64) ^ np.uint64(0x5851F42D4C957F2D))
    parts = [
        ((bits >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.float32) / 65_535 - 0.5 for shift in (0, 16, 32, 48)
    ]
    total: NDArray[np.float32] = np.sum(parts, axis=0)
    return total * np.float32(EFFECT / (4 / 12) ** 0.5)
