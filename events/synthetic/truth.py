"""The true probability of every engagement, the one formula that both makes the world and judges feeds.

Nothing that learns may read it: it lives in the workspace under truth/, outside the log.

    click      p = s(base + user + post + cross . weights)
    positive   p = p_click * s(...)        like, comment, share, save, follow, long_view need the click
    negative   p = s(...)                  see_less and report do not

s is the logistic function. All are per *examined* impression.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import MissingStageError
from core.files import write_atomically
from core.schema import HEADS
from core.workspace import Workspace
from events.synthetic.follows import Ties
from events.synthetic.heads import CROSS_DRIVERS

_CHUNK = 65_536
_CONDITIONAL = tuple(HEADS.index(h) for h in ("like", "comment", "share", "save", "follow", "long_view"))
_CLICK = HEADS.index("click")
_LONG_VIEW = HEADS.index("long_view")
_DRIVER = {name: place for place, name in enumerate(CROSS_DRIVERS)}
_SATURATION = np.float32(1.8)  # beyond a good match, a better one adds little
_SKIM_SHARE = 0.4  # of the long-view threshold, mean time on a click without a long view
_LINGER_SHARE = 0.8  # of the threshold, mean time beyond it on a long view


@dataclass(frozen=True)
class TruthConstants:
    """Scalars of a world's truth."""

    has_preferences: bool
    start_seconds: float
    end_seconds: float
    trends_from_seconds: float


@dataclass(frozen=True)
class Truth:
    """Everything the formula reads. U users, P posts, K latent width, H heads, D cross drivers."""

    constants: TruthConstants
    base: NDArray[np.float32]  # [H]
    cross_weights: NDArray[np.float32]  # [D, H]
    user_logits: NDArray[np.float32]  # [U, H]
    user_vectors_start: NDArray[np.float32]  # [U, K]
    user_vectors_end: NDArray[np.float32]  # [U, K]
    user_media_taste: NDArray[np.float32]  # [U, media types]
    user_language: NDArray[np.int64]
    user_second_language: NDArray[np.int64]
    user_market: NDArray[np.int64]
    user_utc_offset_hours: NDArray[np.float32]
    post_logits: NDArray[np.float32]  # [P, H]
    post_vectors: NDArray[np.float32]  # [P, K]
    post_media: NDArray[np.int64]
    post_leaf: NDArray[np.int64]
    post_creator: NDArray[np.int64]
    post_language: NDArray[np.int64]
    post_market: NDArray[np.int64]
    post_created_at: NDArray[np.float64]  # unix seconds
    post_life_speed: NDArray[np.float32]
    post_long_view_seconds: NDArray[np.float32]  # dwell from which a view is long
    trend_logits: NDArray[np.float32]  # [hours, leaves]
    ties: Ties

    def probabilities(
        self, user_ids: NDArray[np.int64], post_ids: NDArray[np.int64], at_seconds: NDArray[np.float64] | float
    ) -> NDArray[np.float64]:
        """Probability of each engagement per examined impression, [N, len(HEADS)] in the order of HEADS.

        `user_ids` and `post_ids` are [N]; `at_seconds` is unix time, [N] or one for all.
        """
        user_ids, post_ids = np.broadcast_arrays(np.asarray(user_ids), np.asarray(post_ids))
        at = np.broadcast_to(np.asarray(at_seconds, dtype=np.float64), user_ids.shape)
        result = np.empty((len(user_ids), len(HEADS)))
        for low in range(0, len(user_ids), _CHUNK):
            part = slice(low, low + _CHUNK)
            result[part] = self._chunk(user_ids[part], post_ids[part], at[part])
        return result

    def expected_dwell_seconds(
        self, user_ids: NDArray[np.int64], post_ids: NDArray[np.int64], at_seconds: NDArray[np.float64] | float
    ) -> NDArray[np.float64]:
        """Mean seconds spent after opening the post, per examined impression (no click counts as 0), [N]."""
        probability = self.probabilities(user_ids, post_ids, at_seconds)
        threshold = self.post_long_view_seconds[np.asarray(post_ids)]
        click, long_view = probability[:, _CLICK], probability[:, _LONG_VIEW]
        return np.asarray(
            threshold * (long_view * (1 + _LINGER_SHARE) + (click - long_view) * _SKIM_SHARE), dtype=np.float64
        )

    def draw_dwell_seconds(
        self, post_ids: NDArray[np.int64], is_long: NDArray[np.bool_], rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Seconds spent on each clicked post, [N]; below the post's threshold unless the view is long."""
        threshold = self.post_long_view_seconds[post_ids]
        beyond = rng.gamma(1.5, _LINGER_SHARE / 1.5, size=len(post_ids))
        within = rng.beta(2.0, 2.0 / _SKIM_SHARE - 2.0, size=len(post_ids))
        return np.asarray(threshold * np.where(is_long, 1 + beyond, np.minimum(within, 0.999)), dtype=np.float64)

    def _chunk(self, user: NDArray[np.int64], post: NDArray[np.int64], at: NDArray[np.float64]) -> NDArray[np.float64]:
        if not self.constants.has_preferences:
            logits = np.broadcast_to(self.base, (len(user), len(HEADS))).copy()
        else:
            logits = self.base + self.user_logits[user] + self.post_logits[post]
            for values, weights in zip(self._cross(user, post, at), self.cross_weights, strict=True):
                for head in np.flatnonzero(weights):
                    logits[:, head] += weights[head] * values
        np.negative(np.clip(logits, -30.0, 30.0), out=logits)
        np.exp(logits, out=logits)
        probability = 1.0 / (1.0 + logits.astype(np.float64))
        probability[:, _CONDITIONAL] *= probability[:, [_CLICK]]
        return probability

    def _cross(
        self, user: NDArray[np.int64], post: NDArray[np.int64], at: NDArray[np.float64]
    ) -> tuple[NDArray[np.float32], ...]:
        """Values of CROSS_DRIVERS in their order, each [N]."""
        media = self.post_media[post]
        language = self.post_language[post]
        second = language == self.user_second_language[user]
        foreign = (language != self.user_language[user]) & ~second
        drivers = {
            "interest": self._interest(user, post, at),
            "media_taste": self.user_media_taste[user, media],
            "followed": self.ties.is_followed(user, self.post_creator[post], at).astype(np.float32),
            "life": self._life(post, at),
            "trend": self._trend(post, at),
            "local": (self.post_market[post] == self.user_market[user]).astype(np.float32),
            "second": second.astype(np.float32),
            "foreign": foreign.astype(np.float32),
            "pair": _pair_noise(user, post),
            "evening": self._evening(user, at),
        }
        return tuple(drivers[name] for name in CROSS_DRIVERS)

    def _interest(
        self, user: NDArray[np.int64], post: NDArray[np.int64], at: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """Saturating match of the post with the user's taste, which moves in a straight line; 1 at best."""
        span = self.constants.end_seconds - self.constants.start_seconds
        share = np.clip((at - self.constants.start_seconds) / span, 0.0, 1.0).astype(np.float32)
        vectors = self.post_vectors[post]
        if len(user) and user[0] == user[-1] and (user == user[0]).all():
            start, end = self.user_vectors_start[user[0]], self.user_vectors_end[user[0]]
            first, last = np.einsum("nk,k->n", vectors, start), np.einsum("nk,k->n", vectors, end)
        else:
            first = np.einsum("nk,nk->n", vectors, self.user_vectors_start[user])
            last = np.einsum("nk,nk->n", vectors, self.user_vectors_end[user])
        dot = (first + share * (last - first)).astype(np.float32)
        return np.asarray(np.tanh(_SATURATION * dot) / np.tanh(_SATURATION), dtype=np.float32)

    def _life(self, post: NDArray[np.int64], at: NDArray[np.float64]) -> NDArray[np.float32]:
        """Logits that age has cost a post, at most 0."""
        age_days = np.maximum(at - self.post_created_at[post], 0.0) / 86_400.0
        return np.asarray(-self.post_life_speed[post] * np.log1p(age_days), dtype=np.float32)

    def _trend(self, post: NDArray[np.int64], at: NDArray[np.float64]) -> NDArray[np.float32]:
        hour = ((at - self.constants.trends_from_seconds) // 3_600.0).astype(np.int64)
        return self.trend_logits[np.clip(hour, 0, len(self.trend_logits) - 1), self.post_leaf[post]]

    def _evening(self, user: NDArray[np.int64], at: NDArray[np.float64]) -> NDArray[np.float32]:
        """1 at 21:00 local time, -1 at 9:00."""
        hour = at / 3_600.0 + self.user_utc_offset_hours[user]
        return np.cos((hour % 24.0 - 21.0) * (2 * np.pi / 24.0)).astype(np.float32)

    def save(self, workspace: Workspace) -> None:
        """Writes truth/*.npy and truth/truth.json, the json last."""
        folder = _folder(workspace)
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in self._arrays().items():
            np.save(folder / f"{name}.npy", array, allow_pickle=False)
        scalars = {**vars(self.constants), "num_creators": self.ties.num_creators, "heads": HEADS}
        write_atomically(folder / "truth.json", json.dumps(scalars, indent=2))

    @staticmethod
    def load(workspace: Workspace) -> "Truth":
        """The truth of the workspace's world. Raises MissingStageError where there is none."""
        folder = _folder(workspace)
        if not (folder / "truth.json").exists():
            raise MissingStageError("truth of a simulated world", folder, "python -m events generate")
        scalars: dict[str, Any] = json.loads((folder / "truth.json").read_text())
        arrays = {path.stem: np.load(path, allow_pickle=False) for path in sorted(folder.glob("*.npy"))}
        ties = Ties(
            keys=arrays.pop("tie_keys"),
            since=arrays.pop("tie_since"),
            until=arrays.pop("tie_until"),
            num_creators=int(scalars["num_creators"]),
        )
        constants = TruthConstants(**{f.name: scalars[f.name] for f in fields(TruthConstants)})
        return Truth(constants=constants, ties=ties, **arrays)

    def _arrays(self) -> dict[str, NDArray[Any]]:
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("constants", "ties")}
        return {**own, "tie_keys": self.ties.keys, "tie_since": self.ties.since, "tie_until": self.ties.until}


def _folder(workspace: Workspace) -> Path:
    return workspace.root / "truth"


def _pair_noise(user: NDArray[np.int64], post: NDArray[np.int64]) -> NDArray[np.float32]:
    """A fixed draw per pair, mean 0 and deviation 1, nearly normal: four 16-bit lanes of a mixed hash, summed."""
    with np.errstate(over="ignore"):
        mixed = user.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + post.astype(np.uint64)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    total = np.zeros(len(mixed), dtype=np.float32)
    for lane in range(4):
        total += ((mixed >> np.uint64(16 * lane)) & np.uint64(0xFFFF)).astype(np.float32)
    return np.asarray((total / 65_536.0 - 2.0) * np.float32(np.sqrt(3.0)), dtype=np.float32)
