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


def embedding_pairs(spec: FeatureSpec) -> list[tuple[slice, slice]]:
    """Where the user's and the post's embeddings of each group lie among those of their side.

    Raises ValueError for a group that has not one of each, of equal width.
    """
    places: dict[str, dict[Side, slice]] = {}
    sides: tuple[Side, ...] = ("user", "post")
    for side in sides:
        at = 0
        for f in spec.side(side, "embedding"):
            if f.group:
                places.setdefault(f.group, {})[side] = slice(at, at + f.dim)
            at += f.dim
    for group, found in places.items():
        if len({part.stop - part.start for part in found.values()}) != 1 or len(found) != len(sides):
            raise ValueError(f"embedding group {group} needs a user's and a post's embedding of one width: {found}")
    return [(found["user"], found["post"]) for found in places.values()]


def indexed_width(spec: FeatureSpec, side: Side) -> int:
    """Summed width of the pooled vectors of one side."""
    return sum(f.dim for f in spec.side(side) if f.is_indexed)


def dense_width(spec: FeatureSpec, side: Side) -> int:
    """Width of numeric inputs and embeddings of one side."""
    return spec.numeric_width(side) + spec.embedding_width(side)
