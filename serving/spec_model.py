"""What every part of the funnel spec is: frozen, typed, and strict about its keys."""

from pydantic import BaseModel, ConfigDict

from core.schema import HEADS, NEGATIVE_HEADS


class SpecModel(BaseModel):
    """A part of the spec: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


POSITIVE_HEADS = tuple(head for head in HEADS if head not in NEGATIVE_HEADS)


def known_kinds(weights: dict[str, float], known: tuple[str, ...]) -> dict[str, float]:
    """The weights. Raises ValueError for an engagement kind that is not among the known ones."""
    for kind in weights:
        if kind not in known:
            raise ValueError(f"unknown engagement kind {kind!r}; known are {', '.join(known)}")
    return weights
