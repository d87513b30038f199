"""What kinds of users, and users like this one, watch longer than usual.

Single videos are too rare in a user's history to tell a taste. Videos that the same users were shown lie close to one
another in the leading directions of the matrix of impressions, and tastes carry over between them.
Legend: N rows, V videos, D directions.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.published.kuairand_known import Known
from training.spectral import spectral_vectors

USER_STRENGTH = 5.0
GROUP_CODES = (7, 8, 4)
"""Places in `user_codes` of onehot_feat0, onehot_feat1 and register_days_range: groups that differ in taste."""
TASTE_DIM = 32
DAMPING = 1.0
TASTE_STRENGTH = 10.0

Floats = NDArray[np.floating[Any]]


def usual_rate(known: Known, values: NDArray[np.float32]) -> NDArray[np.float64]:
    """The rate of each row's user in the history, [N]."""
    users, is_history = known.data.users, known.data.is_history
    count = np.bincount(users[is_history], minlength=len(known.data.user_ids))
    total = np.bincount(users[is_history], values[is_history], minlength=len(known.data.user_ids))
    prior = float(values[is_history].mean())
    rates: NDArray[np.float64] = (total + USER_STRENGTH * prior) / (count + USER_STRENGTH)
    return rates[users]


def group_lifts(
    known: Known,
    surplus: Floats,
    keys: Mapping[str, NDArray[np.int64]],
    lifts: Mapping[str, Floats],
    strength: float,
) -> dict[str, Floats]:
    """How much more a key is watched by the row's group of users than by all, by key and code, [N] each."""
    data = known.data
    found: dict[str, Floats] = {}
    for code in GROUP_CODES:
        group = data.user_codes[:, code].astype(np.int64)[data.users] + 1
        for name, key in keys.items():
            sums = known.of_posts(key * (int(group.max()) + 1) + group, surplus)
            found[f"cross__{name}_code_{code}_lift"] = sums.rate(lifts[name], strength) - lifts[name]
    return found


def tastes(known: Known, outcome: Floats, user_rate: Floats) -> dict[str, Floats]:
    """`taste`: what the user's earlier rows left over their rate, weighted by likeness to the row's video; `near`: the
    likeness alone; [N] each. `outcome` is the label less the video's lift."""
    data = known.data
    vectors_VD, one = _directions(known), np.zeros(len(data.users), dtype=np.int64)
    taste, near = np.zeros(len(one)), np.zeros(len(one))
    for weights_V in vectors_VD.T.astype(np.float64):
        weight = weights_V[data.videos]
        shown = known.of_user(one, weight)
        taste += weight * (known.of_user(one, weight * outcome).total - user_rate * shown.total)
        near += weight * shown.total
    drawn = shown.count + TASTE_STRENGTH
    return {"cross__taste_lift": taste / drawn, "cross__near_lift": near / drawn}


def _directions(known: Known) -> NDArray[np.float32]:
    """Unit vectors of the videos in the matrix of impressions before the test, [V, D]; the first direction, which is
    popularity, left out."""
    data, shown = known.data, known.is_teaching
    sizes = len(data.user_ids), len(data.video_ids)
    vectors = spectral_vectors(data.users[shown], data.videos[shown], *sizes, TASTE_DIM + 1, DAMPING)[1][:, 1:]
    unit: NDArray[np.float32] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    return unit
