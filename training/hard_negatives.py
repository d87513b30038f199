"""Hard negatives of retrieval: posts that the last epoch's network would have found, and that were not engaged with.

Legend: R users (a row per request), C posts of the catalogue, K negatives per user, D entries of a vector.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.encode import EncodedSide
from models.towers import TwoTower

USERS_AT_ONCE = 512
POSTS_AT_ONCE = 8_192


@dataclass(frozen=True)
class HardNegatives:
    """Which posts a user's positives are set against beside those of the batch."""

    per_user: int = 2
    first_rank: int = 10
    """The best few are as likely liked and never shown as they are wrong."""
    last_rank: int = 200

    def __post_init__(self) -> None:
        if not 0 <= self.first_rank <= self.last_rank - self.per_user:
            raise ValueError(f"{self} wants {self.per_user} posts of ranks {self.first_rank} to {self.last_rank}")


class MinedPosts:
    """For each user some posts that rank high for it, renewed as every epoch but the first begins.

    Searched is the newest row of each post; posts that the user engaged with anywhere in the rows are masked.
    """

    def __init__(
        self,
        module: TwoTower,
        user: EncodedSide,
        post: EncodedSide,
        user_of: NDArray[np.int64],
        user_ids: NDArray[np.int64],
        post_ids: NDArray[np.int64],
        is_positive: NDArray[np.bool_],
        config: HardNegatives,
        seed: int,
    ) -> None:
        """`user_of`, `user_ids`, `post_ids` and `is_positive` are [N], by row of the posts."""
        self._module, self._user, self._post, self._config, self._seed = module, user, post, config, seed
        _, last = np.unique(post_ids[::-1], return_index=True)
        ids, place_of = np.unique(post_ids, return_inverse=True)
        device = user.numeric.device
        self._catalogue = torch.from_numpy(len(post_ids) - 1 - last).to(device)
        if len(ids) <= config.per_user:
            raise ValueError(f"{len(ids)} posts are too few for {config.per_user} hard negatives per user")
        self._wanted = np.unique(user_of[is_positive])
        # Known positives as (user, place in the catalogue), sorted by user.
        users, self._who = np.unique(user_ids, return_inverse=True)
        pairs = np.unique(self._who[is_positive] * len(ids) + place_of[is_positive])
        self._known = pairs % len(ids)
        self._starts = np.searchsorted(pairs // len(ids), np.arange(len(users) + 1))
        first_row = np.full(user.num_rows, -1)
        first_row[user_of[::-1]] = np.arange(len(user_of))[::-1]
        self._who = self._who[first_row]
        self.rows_RK = torch.full((user.num_rows, config.per_user), -1, dtype=torch.int64, device=device)

    def log_chance(self, batch_size: int) -> float:
        """Log of the chance that a place in a batch holds a given post of the wanted ranks."""
        num_ranks = min(self._config.last_rank, len(self._catalogue)) - self._config.first_rank
        return float(np.log(min(1.0, self._config.per_user / max(1, num_ranks)) / batch_size))

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """What a later process needs to go on within an epoch."""
        return {"hard_negatives": self.rows_RK}

    @torch.no_grad()
    def renew(self, epoch: int) -> None:
        """Searches again with the network as it is now."""
        if epoch == 0:
            return
        self._module.eval()
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        parts = torch.split(self._catalogue, POSTS_AT_ONCE)
        posts_CD = torch.cat([self._module.post_vectors(self._post.take(part)) for part in parts])
        for chunk in np.array_split(self._wanted, -(-len(self._wanted) // USERS_AT_ONCE)):
            rows = torch.from_numpy(chunk).to(self._catalogue.device)
            scores_QC = self._module.user_vectors(self._user.take(rows)) @ posts_CD.T
            scores_QC[self._known_pairs(chunk)] = float("-inf")
            places_QK = self._drawn(scores_QC, generator)
            self.rows_RK[rows] = torch.where(places_QK >= 0, self._catalogue[places_QK.clamp(min=0)], -1)

    def _drawn(self, scores_QC: Tensor, generator: torch.Generator) -> Tensor:
        """Places [Q, K] drawn from the wanted ranks; from all where the catalogue is short, -1 where none is left."""
        count = min(self._config.last_rank, scores_QC.shape[1])
        first = min(self._config.first_rank, count - self._config.per_user)
        best = scores_QC.topk(count, dim=1)
        ranked = best.indices[:, first:].masked_fill(best.values[:, first:].isneginf(), -1)
        picks = torch.rand(ranked.shape, generator=generator).topk(self._config.per_user, dim=1).indices
        return ranked.gather(1, picks.to(ranked.device))

    def _known_pairs(self, chunk: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        starts, ends = self._starts[self._who[chunk]], self._starts[self._who[chunk] + 1]
        places = [self._known[a:b] for a, b in zip(starts, ends, strict=True)]
        queries = np.repeat(np.arange(len(chunk)), ends - starts)
        return torch.from_numpy(queries), torch.from_numpy(np.concatenate(places))
