"""The foundation user model: a causal encoder over everything a user saw and did, taught to tell what comes next.

An event is a post with what happened to it by the end of an hour: seen, and every kind of engagement. A user has no
vector of their own: the state comes from a start token, made of declared attributes, and the events after it. A post
is its content and its creator's hashed id, so that a new one has a vector at once.
Legend: W windows, L events of one, P posts, N examples, E width of the encoder, D width of vectors, K kinds.
Source: Zhai et al., Actions speak louder than words, ICML 2024 (actions as events); Pancha et al., PinnerFormer,
KDD 2022 (a state that must serve until the next export).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.schema import ENGAGEMENT_KINDS, HEADS
from models.embeddings import PlainTables, PooledTables
from models.encode import EncodedSide
from models.features import FeatureSpec, Side
from models.inputs import dense_width, indexed_rows, indexed_width
from models.sequence import SequenceConfig, SequenceEncoder

EVENT_FLAGS = ("seen", *ENGAGEMENT_KINDS)
"""What an event may say of its post, by bit of `events.flags`."""

GAP_BUCKETS = 26
"""Buckets of the time since the event before: powers of two of seconds."""

CREATOR = "post_profile__creator_id"


@dataclass(frozen=True)
class FoundationConfig:
    """Shape of the network. `encoder.length` is one start token and the events of a window."""

    encoder: SequenceConfig = field(
        default_factory=lambda: SequenceConfig("transformer", dim=64, length=65, num_layers=1, dropout=0.1)
    )
    dim: int = 32
    hidden: int = 128

    @property
    def window(self) -> int:
        """Events of a window."""
        return self.encoder.length - 1


class FoundationModel(nn.Module):
    """Vectors of users after each event, vectors of posts, and heads that compare them."""

    def __init__(self, spec: FeatureSpec, config: FoundationConfig, *, is_training: bool) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        self.tables = PooledTables(spec) if is_training else PlainTables(spec)
        width, dim = config.encoder.dim, config.dim
        self.content = nn.Sequential(
            nn.Linear(_width(spec, "post"), config.hidden), nn.GELU(), nn.Linear(config.hidden, width)
        )
        self.start = nn.Linear(_width(spec, "user"), width)
        self.flags, self.meaning = nn.Linear(len(EVENT_FLAGS), width), nn.Linear(len(EVENT_FLAGS), width)
        self.gaps = nn.Embedding(GAP_BUCKETS, width)
        self.encoder = SequenceEncoder(config.encoder)
        self.user_out, self.post_out = nn.Linear(width, dim), nn.Linear(width, dim)
        # Likeness of content is right from the first step; the network learns what else there is.
        self.plain_out = nn.Linear(max(1, spec.embedding_width("post")), dim, bias=False)
        nn.init.orthogonal_(self.plain_out.weight)
        self.taste_weight = nn.Linear(len(EVENT_FLAGS), 1, bias=False)
        with torch.no_grad():
            self.taste_weight.weight.copy_(torch.tensor([[-0.1, *[1.0] * len(ENGAGEMENT_KINDS)]]))
        self.taste_prior, self.taste_scale_D = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.ones(dim))
        self.creator_out = nn.Linear(next(f.dim for f in spec.features if f.name == CREATOR), dim)
        self.log_temperature = nn.Parameter(torch.tensor(-2.0))
        self.next_kind = nn.Linear(width, len(EVENT_FLAGS))
        self.reaction_HD = nn.Parameter(torch.full((len(HEADS), dim), dim**-0.5))
        self.reaction_user, self.reaction_post = nn.Linear(dim, len(HEADS)), nn.Linear(dim, len(HEADS))

    def posts(self, encoded: EncodedSide) -> tuple[Tensor, Tensor]:
        """What an event carries of each post [P, E], and the post's vector [P, D]."""
        contents_PE = self.content(self._side("post", encoded))
        vectors_PD = self.post_out(contents_PE).float()
        if encoded.embeddings.shape[1]:
            vectors_PD = vectors_PD + self.plain_out(encoded.embeddings)
        return contents_PE, vectors_PD

    def creators(self, rows_C1: Tensor) -> Tensor:
        """Vectors of creators by their rows of the table, [C, D]."""
        vectors_CD: Tensor = self.creator_out(self.tables.pool({CREATOR: rows_C1})[CREATOR]).float()
        return vectors_CD

    def states(
        self, users: EncodedSide, contents_WLE: Tensor, vectors_WLD: Tensor, flags_WLK: Tensor, gaps_WL: Tensor
    ) -> Tensor:
        """States [W, L + 1, E + D]: before the first event of each window, and after each of its events, oldest first.

        The last D are the taste so far: the mean of the posts' vectors, by what was done to each.
        """
        start_W1E = self.start(self._side("user", users)).unsqueeze(1)
        # What was liked and what was passed over say opposite things of the same content: a product, not a sum.
        events_WLE = contents_WLE * self.meaning(flags_WLK) + self.flags(flags_WLK) + self.gaps(gaps_WL)
        states_WLE = self.encoder(torch.cat([start_W1E, events_WLE], dim=1))
        weights_WL1 = self.taste_weight(flags_WLK).float()
        total_WLD = (weights_WL1 * vectors_WLD).cumsum(1)
        mass_WL1 = weights_WL1.abs().cumsum(1) + F.softplus(self.taste_prior)
        taste_WLD = F.pad(total_WLD / mass_WL1, (0, 0, 1, 0))
        return torch.cat([states_WLE, taste_WLD], dim=2)

    def user_vectors(self, states_NS: Tensor) -> Tensor:
        """[N, D] of states [N, E + D]."""
        states_NE, taste_ND = torch.split(states_NS, [self.config.encoder.dim, self.config.dim], dim=1)
        vectors_ND: Tensor = self.user_out(states_NE) + self.taste_scale_D * taste_ND
        return vectors_ND

    def kinds(self, states_NS: Tensor) -> Tensor:
        """Logits [N, K] of the kind of the next event."""
        logits_NK: Tensor = self.next_kind(states_NS[:, : self.config.encoder.dim]).float()
        return logits_NK

    def reactions(self, users_ND: Tensor, posts_ND: Tensor) -> Tensor:
        """Logits [N, H] of every engagement of each user with the post beside it, were it shown."""
        together_NH = ((users_ND * posts_ND) @ self.reaction_HD.T).float()
        logits_NH: Tensor = together_NH + self.reaction_user(users_ND) + self.reaction_post(posts_ND)
        return logits_NH

    def exported_users(self, users_ND: Tensor, head: str) -> Tensor:
        """Vectors [N, D + 1]; their product with an exported post: log odds of `head`, less the post's own part."""
        at = HEADS.index(head)
        own_N1 = self.reaction_user(users_ND)[:, at : at + 1] + self.reaction_post.bias[at]
        return torch.cat([users_ND * self.reaction_HD[at], own_N1], dim=1)

    def exported_posts(self, posts_PD: Tensor) -> Tensor:
        """Vectors [P, D + 1]."""
        return torch.cat([posts_PD, posts_PD.new_ones(len(posts_PD), 1)], dim=1)

    def directed(self, vectors_ND: Tensor) -> Tensor:
        """Unit vectors, scaled so that a product of two is a cosine over the learned temperature."""
        return F.normalize(vectors_ND, dim=1) * (-0.5 * self.log_temperature).exp()

    def score(self, users: EncodedSide, posts: EncodedSide) -> Tensor:
        """Reactions of users who saw each post a whole window long; what the cost of the model is counted on."""
        contents_PE, vectors_PD = self.posts(posts)
        length = self.config.window
        flags = torch.zeros(len(contents_PE), length, len(EVENT_FLAGS))
        gaps = torch.zeros(len(contents_PE), length, dtype=torch.int64)
        contents, vectors = (part.unsqueeze(1).expand(-1, length, -1) for part in (contents_PE, vectors_PD))
        states = self.states(users, contents, vectors, flags, gaps)
        return self.reactions(self.user_vectors(states[:, -1]), vectors_PD)

    def _side(self, side: Side, encoded: EncodedSide) -> Tensor:
        rows = indexed_rows(self.spec, side, encoded)
        pooled = self.tables.pool(rows) if rows else {}
        return torch.cat([encoded.numeric, encoded.embeddings, *(pooled[name] for name in rows)], dim=1)


def gap_buckets(seconds: Tensor) -> Tensor:
    """Bucket of each gap of time, same shape."""
    return torch.log2(seconds.clamp(min=0) + 1.0).long().clamp(max=GAP_BUCKETS - 1)


def flag_columns(flags: Tensor) -> Tensor:
    """Bits of each event as 0 and 1, [..., K]."""
    return (flags.unsqueeze(-1) >> torch.arange(len(EVENT_FLAGS), device=flags.device) & 1).to(torch.float32)


def config_from_json(values: Mapping[str, Any]) -> FoundationConfig:
    """The config that `asdict` wrote."""
    return FoundationConfig(**{**values, "encoder": SequenceConfig(**values["encoder"])})


def _width(spec: FeatureSpec, side: Side) -> int:
    return dense_width(spec, side) + indexed_width(spec, side)
