"""Named random streams: one per concern, so that resizing one concern leaves every other untouched."""

import numpy as np

STREAMS = (
    "topics",
    "users",
    "user_interests",
    "creators",
    "posts",
    "post_content",
    "follows",
    "trends",
    "sessions",
    "slates",
    "engagements",
    "dwell",
)
"""Every concern that draws; append only, since the place in this tuple is part of the seed."""


def spawn_streams(seed: int) -> dict[str, np.random.Generator]:
    """One independent generator per name of STREAMS, all children of `seed`."""
    children = np.random.SeedSequence(seed).spawn(len(STREAMS))
    return {name: np.random.Generator(np.random.PCG64(child)) for name, child in zip(STREAMS, children, strict=True)}
