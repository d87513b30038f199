"""Learns identities by the softmax of every user over every post, posts drawn towards who engaged with them.

For towers of identities alone: nothing of a user or a post then changes with time, and each is encoded once.
Legend: U users, P posts, K positives, D dimensions.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.encode import EncodedSide
from models.losses import full_softmax
from models.towers import TwoTower, moved


class PostNeighbours:
    """Where the users who engaged with each post are: one round of graph convolution on the side of the posts.

    No gradient flows through it, so that it costs little. Source: He et al., LightGCN, SIGIR 2020.
    """

    def __init__(self, users_K: Tensor, posts_K: Tensor, num_posts: int, strength: float) -> None:
        self._users_K = users_K[posts_K.argsort(stable=True)]
        counts_P = torch.bincount(posts_K, minlength=num_posts)
        self._starts_P = counts_P.cumsum(0) - counts_P
        self._strength = strength

    @torch.no_grad()
    def near(self, users_UD: Tensor) -> Tensor:
        """`strength` times the direction of each post's users, [P, D]; zeros for a post without any."""
        means_PD = F.embedding_bag(self._users_K, F.normalize(users_UD, dim=1), self._starts_P, mode="mean")
        return self._strength * F.normalize(means_PD, dim=1)


class FullSoftmax:
    """The loss of users' positives among all posts, for the training loop: its units are users.

    `user` and `post` are encoded rows, whoever repeats; positive k is of row `user_of[k]` of `user` and row
    `post_of[k]` of `post`.
    """

    def __init__(
        self,
        module: TwoTower,
        user: EncodedSide,
        post: EncodedSide,
        user_of: Tensor,
        post_of: Tensor,
        weights: Tensor,
        smoothing: float,
    ) -> None:
        _require_identities_alone(module)
        self._module = module
        self.user_rows, first_U, place_R = _distinct(module.identity_rows("user", user))
        self.post_rows, first_P, place_N = _distinct(module.identity_rows("post", post))
        self._users, self._posts = user.take(first_U), post.take(first_P)
        users_K, posts_K = place_R[user_of], place_N[post_of]
        self._neighbours = PostNeighbours(users_K, posts_K, len(self.post_rows), smoothing)
        by_user = users_K.argsort(stable=True)
        self._posts_K, self._weights_K = posts_K[by_user], weights[by_user]
        counts_U = torch.bincount(users_K, minlength=len(self.user_rows))
        self._starts = torch.cat([counts_U.new_zeros(1), counts_U.cumsum(0)])

    @property
    def num_users(self) -> int:
        return len(self.user_rows)

    def units_of(self, user: EncodedSide) -> Tensor:
        """The users that these rows name, each once; ValueError for one without a row here."""
        wanted = self._module.identity_rows("user", user).unique()  # type: ignore[no-untyped-call]
        units = torch.searchsorted(self.user_rows, wanted).clamp(max=self.num_users - 1)
        if not torch.equal(self.user_rows[units], wanted):
            raise ValueError("users to validate on have no training row, so nothing is known of them")
        return units

    def loss(self, users: Tensor) -> Tensor:
        """Mean over the positives of these users."""
        counts = self._starts[users + 1] - self._starts[users]
        user_of_P = torch.repeat_interleave(torch.arange(len(users), device=users.device), counts)
        first_P = (self._starts[users] - counts.cumsum(0) + counts)[user_of_P]
        at_P = first_P + torch.arange(len(user_of_P), device=users.device)
        users_QD, _ = self._module.user_parts(self._users.take(users))
        posts_ND = self._module.post_vectors(self._posts, self._near())
        positives = user_of_P, self._posts_K[at_P], self._weights_K[at_P]
        # The last entry of a post is its bias, that of a user is 1.
        return full_softmax(users_QD[:, :-1], posts_ND[:, :-1], posts_ND[:, -1], *positives)

    @torch.no_grad()
    def settle(self) -> None:
        """Moves the posts' identities for good to where `loss` saw them."""
        table = self._module.identity_table("post")
        table[self.post_rows, :-1] = moved(table[self.post_rows, :-1], self._near())

    def _near(self) -> Tensor:
        return self._neighbours.near(self._module.identity_table("user")[self.user_rows, :-1])


def _require_identities_alone(module: TwoTower) -> None:
    for tower in (module.user_tower, module.post_tower):
        if tower.reads_features or not tower.identity:
            raise ValueError(
                f"softmax over all posts is for identities alone, but the {tower.side} tower reads other features, "
                "which change with time; take softmax_over 'batch'"
            )


def _distinct(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The rows once, sorted; where each first stands; the place of every one among them."""
    found = np.unique(rows.cpu().numpy(), return_index=True, return_inverse=True)
    rows_U, first_U, place_N = (torch.from_numpy(part).to(rows.device) for part in found)
    return rows_U, first_U, place_N
