"""Rows of tables by feature, cut out of an encoded side."""

from torch import Tensor

from models.encode import EncodedSide
from models.features import FeatureSpec, Side


def indexed_rows(spec: FeatureSpec, side: Side, encoded: EncodedSide) -> dict[str, Tensor]:
    """Table rows per indexed feature of one side, [B, L] each; categorical ones have L = 1."""
    rows: dict[str, Tensor] = {}
    at = 0
    for f in spec.side(side, "categorical") + spec.side(side, "codes"):
        rows[f.name] = encoded.ids[:, at : at + f.num_ids]
        at += f.num_ids
    for f in spec.side(side, "sequence"):
        rows[f.name] = encoded.sequences[f.name]
    return rows


def embedding_places(spec: FeatureSpec, side: Side) -> dict[str, slice]:
    """Where each embedding of one side lies among those of it."""
    places, at = {}, 0
    for f in spec.side(side, "embedding"):
        places[f.name] = slice(at, at + f.dim)
        at += f.dim
    return places


def embedding_pairs(spec: FeatureSpec) -> list[tuple[slice, slice]]:
    """Where the embeddings of each group lie: every user's beside the post's.

    Raises ValueError for a group that has not some of users and one of posts, of equal width.
    """
    of_user, of_post = (embedding_places(spec, side) for side in ("user", "post"))
    pairs = []
    for group in dict.fromkeys(f.group for f in spec.features if f.kind == "embedding" and f.group):
        members = [f for f in spec.features if f.kind == "embedding" and f.group == group]
        users, posts = ([f.name for f in members if f.side == side] for side in ("user", "post"))
        if not users or len(posts) != 1 or len({f.dim for f in members}) != 1 or len(users) + 1 != len(members):
            raise ValueError(f"embedding group {group} needs users' and one post's embedding of one width: {members}")
        pairs += [(of_user[name], of_post[posts[0]]) for name in users]
    return pairs


def plain_embeddings(spec: FeatureSpec, side: Side) -> list[slice]:
    """Where the embeddings without a group lie."""
    places = embedding_places(spec, side)
    return [places[f.name] for f in spec.side(side, "embedding") if not f.group]


def indexed_width(spec: FeatureSpec, side: Side) -> int:
    """Summed width of the pooled vectors of one side."""
    return sum(f.dim for f in spec.side(side) if f.is_indexed)


def dense_width(spec: FeatureSpec, side: Side) -> int:
    """Width of numeric inputs and embeddings of one side."""
    return spec.numeric_width(side) + spec.embedding_width(side)
