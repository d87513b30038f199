"""How strongly each engagement depends on each driver: the committed weights of the worlds."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

CROSS_DRIVERS = (
    "interest",
    "media_taste",
    "followed",
    "life",
    "trend",
    "local",
    "second",
    "foreign",
    "pair",
    "evening",
)
"""Drivers of an engagement that depend on user and post (or time) together."""

POST_DRIVERS = ("quality", "charisma", "bait", "risk")
"""Traits of a post alone; mean 0 and deviation 1 over posts, but for `risk`, which lies in 0..1."""

Weights = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class HeadConfig:
    """One engagement: its logit at rest and the weight of each driver.

    Positive engagements other than the click are conditional on the click; see_less and report are not.
    """

    base: float
    cross: Weights = ()
    post: Weights = ()
    media: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # by core.schema.MEDIA_TYPES
    topic: float = 0.0  # share of the leaf's own effect
    clickiness: float = 0.0
    warmth: float = 0.0


def default_heads() -> tuple[tuple[str, HeadConfig], ...]:
    """Weights of the default world, one entry per head in the order of core.schema.HEADS."""
    return (
        (
            "click",
            HeadConfig(
                base=-3.1,
                cross=(
                    ("interest", 2.5),
                    ("media_taste", 0.7),
                    ("followed", 0.5),
                    ("life", 1.0),
                    ("trend", 1.0),
                    ("local", 0.15),
                    ("second", -0.3),
                    ("foreign", -2.5),
                    ("pair", 0.2),
                ),
                post=(("quality", 0.55), ("bait", 0.35)),
                media=(0.0, 0.15, 0.05, -0.25),
                clickiness=1.0,
            ),
        ),
        (
            "like",
            HeadConfig(
                base=-3.15,
                cross=(("interest", 1.2), ("followed", 0.4), ("pair", 0.1)),
                post=(("quality", 0.5), ("charisma", 0.2), ("bait", -0.4)),
                warmth=1.0,
            ),
        ),
        (
            "comment",
            HeadConfig(
                base=-4.2,
                cross=(("interest", 0.8), ("followed", 0.5), ("trend", 0.4)),
                post=(("quality", 0.2), ("bait", 0.15)),
                media=(0.0, 0.0, 0.0, 0.5),
                topic=1.0,
                warmth=0.8,
            ),
        ),
        (
            "share",
            HeadConfig(
                base=-4.2,
                cross=(("interest", 0.8), ("trend", 0.6)),
                post=(("quality", 0.4), ("bait", -0.2)),
                media=(0.0, 0.4, -0.1, -0.2),
                topic=1.0,
                warmth=0.6,
            ),
        ),
        (
            "save",
            HeadConfig(
                base=-4.0,
                cross=(("interest", 1.0),),
                post=(("quality", 0.5), ("bait", -0.4)),
                media=(0.0, -0.2, 0.5, 0.1),
                topic=1.0,
                warmth=0.4,
            ),
        ),
        (
            "follow",
            HeadConfig(
                base=-4.4,
                cross=(("interest", 1.2), ("followed", -8.0)),
                post=(("charisma", 0.8), ("bait", -0.2)),
                warmth=0.4,
            ),
        ),
        (
            "long_view",
            HeadConfig(
                base=-1.0,
                cross=(("media_taste", 1.4), ("interest", 0.8), ("evening", 0.25)),
                post=(("quality", 0.3), ("bait", -0.6)),
                media=(-0.4, 0.5, 0.2, 0.2),
            ),
        ),
        (
            "see_less",
            HeadConfig(
                base=-6.0,
                cross=(("interest", -2.0), ("followed", -1.0), ("foreign", 0.8), ("media_taste", -0.3)),
                post=(("bait", 0.5), ("risk", 2.5), ("quality", -0.25)),
            ),
        ),
        (
            "report",
            HeadConfig(
                base=-7.4,
                cross=(("interest", -0.5), ("followed", -1.0)),
                post=(("risk", 6.0), ("bait", 0.2)),
            ),
        ),
    )


def other_heads() -> tuple[tuple[str, HeadConfig], ...]:
    """Weights of the second world: taste weighs less and quality more, reactions have other rates."""
    changed: dict[str, dict[str, Any]] = {
        "click": {"base": -3.0, "cross": {"interest": 2.4, "media_taste": 0.9}, "post": {"quality": 0.6, "bait": 0.25}},
        "like": {"base": -2.95, "cross": {"interest": 1.0}},
        "comment": {"base": -4.5},
        "share": {"base": -3.9},
        "long_view": {"base": -0.8, "cross": {"media_taste": 1.1, "interest": 1.0}},
        "see_less": {"base": -5.8, "cross": {"interest": -1.7}},
    }
    return _changed(default_heads(), changed)


def flat_heads() -> tuple[tuple[str, HeadConfig], ...]:
    """Weights of the null world: base rates like the default log's and no driver at all."""
    bases = {name: head.base for name, head in default_heads()}
    bases |= {"click": -1.7, "like": -1.5, "comment": -3.4, "share": -3.3, "save": -3.0, "follow": -3.6}
    bases |= {"long_view": -0.3, "report": -7.0}
    return tuple((name, HeadConfig(base=bases[name])) for name in bases)


def _changed(
    heads: tuple[tuple[str, HeadConfig], ...], changes: Mapping[str, Mapping[str, Any]]
) -> tuple[tuple[str, HeadConfig], ...]:
    """The heads with some bases and weights replaced."""
    result = []
    for name, head in heads:
        change = changes.get(name, {})
        cross = tuple({**dict(head.cross), **change.get("cross", {})}.items())
        post = tuple({**dict(head.post), **change.get("post", {})}.items())
        result.append((name, replace(head, base=change.get("base", head.base), cross=cross, post=post)))
    return tuple(result)
