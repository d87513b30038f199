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


def indexed_width(spec: FeatureSpec, side: Side) -> int:
    """Summed width of the pooled vectors of one side."""
    return sum(f.dim for f in spec.side(side) if f.is_indexed)


def dense_width(spec: FeatureSpec, side: Side) -> int:
    """Width of numeric inputs and embeddings of one side."""
    return spec.numeric_width(side) + spec.embedding_width(side)
