"""A world small enough to be made anew in every test that changes it."""

from dataclasses import replace
from functools import cache

from events.synthetic.config import PRESETS
from events.synthetic.generate import draw_world


def small_config(preset="world", **parts):
    """Three days, 300 users, 900 posts; `parts` override fields of the named sub-configs."""
    config = replace(PRESETS[preset].scaled(0.015), num_days=3)
    sizes = {
        "catalogue": {"num_creators": 60, "num_posts": 900},
        "visits": {"num_impressions": 30_000, "burn_in_days": 0.5},
        "policy": {"refresh_hours": 6.0},
    }
    for name in {**sizes, **parts}:
        changes = {**sizes.get(name, {}), **parts.get(name, {})}
        config = replace(config, **{name: replace(getattr(config, name), **changes)})
    return config


@cache
def small_world(preset="world"):
    """Tables and truth, shared by tests that only read."""
    return draw_world(small_config(preset))
