"""Candidates as columns: one numpy array per fact, aligned by place. Depends on nothing but numpy."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Candidates:
    """N posts on their way through the funnel. Rows are distinct rows of the snapshot's catalogue."""

    rows: NDArray[np.int64]
    source_bits: NDArray[np.uint32]
    """Bit i is set where source i of the spec brought the post."""
    scores: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """Score by stage, [N] each; NaN where the stage had none."""
    probabilities: NDArray[np.float64] | None = None
    """Calibrated probability of each engagement, [N, H]."""

    def __len__(self) -> int:
        return len(self.rows)

    @staticmethod
    def none() -> "Candidates":
        """No candidates."""
        return Candidates(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.uint32))

    def take(self, places: NDArray[np.int64]) -> "Candidates":
        """The candidates at `places`, in that order."""
        return Candidates(
            self.rows[places],
            self.source_bits[places],
            {name: values[places] for name, values in self.scores.items()},
            None if self.probabilities is None else self.probabilities[places],
        )

    def preceded_by(self, rows: NDArray[np.int64]) -> "Candidates":
        """The same candidates behind others that no source brought and no stage has scored yet."""
        if len(rows) == 0:
            return self
        none = np.full(len(rows), np.nan)
        return Candidates(
            np.concatenate([rows, self.rows]),
            np.concatenate([np.zeros(len(rows), dtype=np.uint32), self.source_bits]),
            {name: np.concatenate([none, values]) for name, values in self.scores.items()},
        )

    def with_score(self, stage: str, values: NDArray[np.float64]) -> "Candidates":
        """The same candidates with the score of one more stage."""
        if len(values) != len(self):
            raise ValueError(f"stage {stage} gave {len(values)} scores for {len(self)} candidates")
        return replace(self, scores={**self.scores, stage: values})


def best_first(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Places by score, highest first; equal scores keep their order and non-finite ones sink to the end."""
    return np.argsort(-np.where(np.isfinite(scores), scores, -np.inf), kind="stable")
