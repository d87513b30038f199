"""Training rows whose user the platform has never met, so that a first visit is nothing new to the ranker.

A log knows its users: nearly every row has a history, and what a network makes of a user without any
would be left to chance. A small share of rows therefore loses all that was known of the user; who the
user is stays unknown, the context of the request stays.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from feature_repo.catalog import CROSS_VIEW, ENTITY_VIEWS, FIELDS
from feature_repo.columns import Columns, null_columns
from feature_repo.crosses import cross_features
from training.examples import Examples

OF_THE_POST = frozenset({f"{CROSS_VIEW}__post_age_hours"})
"""Cross features that need no user."""


def forgotten_rows(num_rows: int, share: float, seed: int) -> NDArray[np.int64]:
    """The rows that lose their user: each with chance `share`, in order."""
    return np.flatnonzero(np.random.default_rng([seed, 7]).random(num_rows) < share)


def as_unknown_users(examples: Examples) -> Examples:
    """The same rows as they read when the user is unknown; columns outside the catalogue stay."""
    views = {*ENTITY_VIEWS["user"], CROSS_VIEW}
    names = [n for n in examples.columns if n in FIELDS and n.partition("__")[0] in views and n not in OF_THE_POST]
    nothing = null_columns(names, examples.num_rows) | _crosses(names, examples.num_rows)
    return dataclasses.replace(examples, columns={**examples.columns, **nothing})


def _crosses(names: list[str], num_rows: int) -> Columns:
    """What an unknown user has in common with any post, [num_rows] each."""
    inputs = {entity: [f"{v}__{f}" for v in views for f in _fields(v)] for entity, views in ENTITY_VIEWS.items()}
    one = cross_features(null_columns(inputs["user"], 1), null_columns(inputs["post"], 1), 0.0)
    return {name: np.repeat(one[name], num_rows) for name in names if name in one}


def _fields(view: str) -> list[str]:
    return [name.partition("__")[2] for name in FIELDS if name.partition("__")[0] == view]
