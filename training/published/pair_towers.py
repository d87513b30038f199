"""The production two-tower trainer on pairs of ids: trained, saved as a bundle, searched through its FAISS index."""

from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from core.clock import WallClock
from core.errors import BundleError
from core.schema import HEADS
from models.ann import PostIndex, load_index, write_index
from models.bundle import RetrievalBundle, load_bundle
from models.features import Feature, FeatureSpec
from models.towers import TowerConfig
from training.device import CPU
from training.examples import Examples
from training.fit_retrieval import POSITIVE, RetrievalConfig, fit_retrieval
from training.loop import FittedModel, LoopConfig, Progress, spaced_rows
from training.published.full_ranking import Int64s, Ranker
from training.published.pairs import Pairs

USER, POST = "pair__user", "pair__post"
TEMPERATURE_OF_ONE = 0.035
"""Temperature for one pair per user."""
BATCHES_PER_EPOCH = 50
WATCHED_ROWS = 20_000


def pair_config(num_pairs: int, num_users: int, is_quick: bool = False) -> RetrievalConfig:
    """What retrieval on ids alone learns with, whatever the split: chosen on parts of the train files.

    The temperature grows with the cube root of the pairs per user: a user of many posts spreads the softmax
    over all of them.
    """
    return RetrievalConfig(
        network=_identities(TEMPERATURE_OF_ONE * (num_pairs / num_users) ** (1 / 3)),
        loop=LoopConfig(
            batch_size=ceil(num_users / BATCHES_PER_EPOCH),
            max_epochs=1 if is_quick else 6,
            table_learning_rate=0.06,
            validations_per_epoch=1,
        ),
        tasks=(POSITIVE,),
        pointwise_weight=0.0,
        softmax_over="all",
        smoothing=2.0,
        log_q_power=1.0,
        spectral_damping=5.0,
    )


def context_config(num_contexts: int, num_posts: int, is_quick: bool = False) -> RetrievalConfig:
    """What item2vec learns with: sampled softmax over the posts of a batch, for there are as many queries as posts."""
    return RetrievalConfig(
        network=_identities(0.0175 * (num_contexts / num_posts) ** 0.5),
        loop=LoopConfig(
            batch_size=2048, max_epochs=1 if is_quick else 3, table_learning_rate=0.04, validations_per_epoch=1
        ),
        tasks=(POSITIVE,),
        pointwise_weight=0.0,
        log_q_power=1.0,
        spectral_damping=5.0,
    )


def _identities(temperature: float) -> TowerConfig:
    return TowerConfig(
        dim=255, temperature=temperature, is_temperature_learned=False, user_identity=USER, post_identity=POST
    )


def pair_spec(num_users: int, num_posts: int, dim: int) -> FeatureSpec:
    """A user's and a post's own row, and nothing else."""
    sizes = ((USER, "user", num_users), (POST, "post", num_posts))
    return FeatureSpec(
        tuple(
            Feature(name, side, "categorical", table=f"{side}_identity", num_rows=number + 2, dim=dim + 1)  # type: ignore[arg-type]
            for name, side, number in sizes
        )
    )


def pair_examples(pairs: Pairs) -> Examples:
    """Pairs as impressions that were clicked."""
    labels = np.full((len(pairs), len(HEADS)), np.nan, dtype=np.float32)
    labels[:, HEADS.index("click")] = 1.0
    nothing = np.zeros(len(pairs), dtype=np.int64)
    columns = {USER: pairs.users, POST: pairs.posts}
    return Examples(columns, labels, pairs.users, pairs.posts, nothing, nothing.astype(np.float64))


def fit_pairs(
    pairs: Pairs,
    num_users: int,
    num_posts: int,
    config: RetrievalConfig,
    seed: int,
    progress: Progress | None = None,
    num_threads: int = 2,
    device: torch.device = CPU,
) -> FittedModel:
    """The two towers after a fixed number of epochs; there is no validation part, so what is watched is trained on."""
    train = pair_examples(pairs)
    watched = train.take(spaced_rows(train.num_rows, WATCHED_ROWS))
    spec = pair_spec(num_users, num_posts, config.network.dim)
    return fit_retrieval(train, watched, spec, config, seed, progress, num_threads, device=device)


@dataclass(frozen=True)
class ServedPairs:
    """The bundle and index as serving loads them."""

    bundle: RetrievalBundle
    index: PostIndex

    @staticmethod
    def of(fitted: FittedModel, root: Path, num_posts: int) -> "ServedPairs":
        """Written below `root`, then read back, checksums and all."""
        path = fitted.save(root / "bundles" / "retrieval", {})
        bundle = load_bundle(path)
        if not isinstance(bundle, RetrievalBundle):
            raise BundleError(f"bundle {path} is a {bundle.manifest['kind']} model; expected retrieval")
        posts = np.arange(num_posts)
        vectors = bundle.post_vectors({POST: posts})
        manifest = write_index(root / "index", posts, vectors, bundle.bundle_id, WallClock().now())
        return ServedPairs(bundle, load_index(root / "index" / manifest.index_id, bundle.bundle_id))

    def ranker(self) -> Ranker:
        """The index's answer to the user vectors."""

        def first(users: Int64s, num_places: int) -> Int64s:
            return self.index.search(self.bundle.user_vectors({USER: users}), num_places)[0]

        return first

    def vector_bytes(self) -> int:
        """Bytes of one exported user vector."""
        return 4 * self.bundle.dim


def mean_vectors(vectors_PD: NDArray[np.float32], starts: Int64s, posts: Int64s) -> NDArray[np.float32]:
    """Mean vector of each user's posts, [U, D]."""
    from scipy import sparse  # type: ignore[import-untyped]

    counts = np.maximum(np.diff(starts), 1).astype(np.float32)
    member = sparse.csr_matrix((np.ones(len(posts), dtype=np.float32), posts, starts), (len(counts), len(vectors_PD)))
    means: NDArray[np.float32] = np.asarray(member @ vectors_PD, dtype=np.float32) / counts[:, None]
    return means
