"""Features that alone predict a label better than honest ones do: most often the label's own trace.

The statistic is the AUC of one feature by itself on rows it was not fitted on. A half of the rows gives every
value of the feature (or every bin, nulls being one) the label's rate among its rows; the other half is ranked by
these rates. So a leak is found whichever way it points: upwards, downwards, by one magic value, by being
null or not. Lists enter by each position, by their number of elements and by whether they hold the row's own
post or creator.

Legend: N rows, H heads, L positions, B bins.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.schema import HEADS
from validation.leakage import Leak

MOST_ROWS = 100_000
"""Rows judged; half of them fit, half of them are ranked."""

AUC_LIMIT = 0.95
"""A feature is refused when its AUC is above this by three standard errors. The best honest one has 0.74 in
the simulated world and 0.84 in KuaiRand (docs/decisions/0013-leaks-and-drift.md); the label's own copy has 1."""

LEAST_POSITIVES = 30
"""Positives a head needs in either half; below, a high AUC is too often chance."""

MOST_VALUES = 4_096
"""Distinct texts or whole numbers up to which each is a bin of its own."""

MOST_BINS = 256
ROWS_PER_BIN = 100
"""Of the fitting half; with fewer, bins learn noise and honest features look weaker than they are."""

NUM_ERRORS = 3.0
ADVICE = (
    "find what in the log or the join makes the feature follow the label, mend it and build the set again; "
    "if the feature is honest, say so with `--trust FEATURE`"
)


@dataclass(frozen=True)
class LabelledRows:
    """A sample of a set: feature columns [N] or [N, L], labels [N, H] with NaN unobserved, ids [N]."""

    columns: Mapping[str, NDArray[Any]]
    labels: NDArray[np.float32]
    post_ids: NDArray[np.int64]
    creator_ids: NDArray[np.int64]


@dataclass(frozen=True)
class Strength:
    """How well one feature alone predicts one head; `error` is the AUC's standard error."""

    feature: str
    head: str
    auc: float
    error: float
    num_rows: int
    examples: tuple[str, ...]

    @property
    def is_suspicious(self) -> bool:
        return self.auc - NUM_ERRORS * self.error > AUC_LIMIT

    def leak(self) -> Leak:
        found = f"predict {self.head} alone, with an AUC of {self.auc:.4f} ± {self.error:.4f}, limit {AUC_LIMIT:.2f}"
        return Leak("single feature", self.feature, self.num_rows, self.num_rows, found, self.examples, ADVICE)


def judged_heads(labels: NDArray[np.float32]) -> list[str]:
    """Heads with LEAST_POSITIVES in either half of rows that are in random order."""
    halves = (labels[::2], labels[1::2])
    return [
        head for h, head in enumerate(HEADS) if min(int((half[:, h] > 0.5).sum()) for half in halves) >= LEAST_POSITIVES
    ]


def strengths(
    rows: LabelledRows, seed: int, on_column: Callable[[int, int], None] = lambda done, total: None
) -> list[Strength]:
    """The strongest form of every column for every judged head, strongest first; `seed` draws the halves."""
    order = np.random.default_rng(seed).permutation(len(rows.labels))
    labels = rows.labels[order]
    heads = judged_heads(labels)
    found: list[Strength] = []
    for done, (name, values) in enumerate(rows.columns.items(), start=1):
        if heads:
            found += _of_column(name, values[order], labels, heads, rows, order)
        on_column(done, len(rows.columns))
    return sorted(found, key=lambda strength: -strength.auc)


def _of_column(
    name: str,
    values: NDArray[Any],
    labels: NDArray[np.float32],
    heads: list[str],
    rows: LabelledRows,
    order: NDArray[np.int64],
) -> list[Strength]:
    best: dict[str, Strength] = {}
    for form, scalars in _forms(name, values, rows.post_ids[order], rows.creator_ids[order]):
        codes, words = _binned(scalars)
        for head in heads:
            strength = _strength(form, head, codes, words, labels[:, HEADS.index(head)])
            if head not in best or strength.auc > best[head].auc:
                best[head] = strength
    return list(best.values())


def _forms(
    name: str, values: NDArray[Any], post_ids: NDArray[np.int64], creator_ids: NDArray[np.int64]
) -> Iterator[tuple[str, NDArray[Any]]]:
    """The scalars [N] that a column is judged as, by name."""
    if values.ndim == 1:
        yield name, values
        return
    for place in range(values.shape[1]):
        yield f"{name}[{place}]", values[:, place]
    if values.dtype.kind == "i":
        yield f"{name}.length", (values >= 0).sum(axis=1)
        owners = {"post_ids": post_ids, "creator_ids": creator_ids}
        for ending, own in owners.items():
            if name.endswith(ending):
                yield f"{name}.holds_own", ((values == own[:, None]) & (own[:, None] >= 0)).any(axis=1).astype(np.int64)


def _binned(values: NDArray[Any]) -> tuple[NDArray[np.int64], Callable[[int], str]]:
    """Bin of each value [N], and what a bin holds in words. Few distinct values are their own bins."""
    num_bins = int(np.clip(len(values) / 2 / ROWS_PER_BIN, 16, MOST_BINS))
    if values.dtype.kind in "OU":
        distinct, codes = np.unique(values.astype(str), return_inverse=True)
        return codes.astype(np.int64) % MOST_VALUES, lambda code: repr(str(distinct[code]))
    distinct, codes = np.unique(values, return_inverse=True)
    if len(distinct) <= (num_bins if values.dtype.kind == "f" else MOST_VALUES):
        return codes.astype(np.int64), lambda code: f"the value {distinct[code]:.6g}".replace("the value nan", "null")
    number = np.asarray(values, dtype=np.float64)
    is_null = np.isnan(number)
    edges = np.unique(np.quantile(number[~is_null], np.linspace(0, 1, num_bins + 1)[1:-1]))
    bins = np.where(is_null, len(edges) + 1, np.searchsorted(edges, number, side="left"))

    def words(code: int) -> str:
        if code > len(edges):
            return "null"
        low = "-inf" if code == 0 else f"{edges[code - 1]:.6g}"
        return f"values from {low} to {edges[code]:.6g}" if code < len(edges) else f"values above {edges[-1]:.6g}"

    return bins.astype(np.int64), words


def _strength(
    form: str, head: str, codes: NDArray[np.int64], words: Callable[[int], str], label: NDArray[np.float32]
) -> Strength:
    """Rates per bin from the even rows, AUC of the odd ones."""
    is_known = ~np.isnan(label)
    is_fit = np.arange(len(label)) % 2 == 0
    num_bins = int(codes.max()) + 1
    fit_rows, fit_positives = _counts(codes, label, is_known & is_fit, num_bins)
    base = fit_positives.sum() / max(fit_rows.sum(), 1.0)
    # One imaginary row at the base rate: an unseen value ranks in the middle.
    rates = (fit_positives + base) / (fit_rows + 1.0)
    num_rows, positives = _counts(codes, label, is_known & ~is_fit, num_bins)
    area, error = binned_auc(rates, positives, num_rows - positives)
    surprise = (fit_positives - base * fit_rows) / np.sqrt(base * fit_rows + 1.0)
    top = [int(code) for code in np.argsort(-surprise, kind="stable")[:3] if num_rows[code]]
    shown = [f"{words(code)} has {positives[code]:,.0f} positives in {num_rows[code]:,.0f} rows" for code in top]
    return Strength(form, head, area, error, int(num_rows.sum()), tuple(shown) or ("no bin stands out",))


def _counts(
    codes: NDArray[np.int64], label: NDArray[np.float32], chosen: NDArray[np.bool_], num_bins: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows and positives per bin among the chosen, [B] each."""
    kept = codes[chosen]
    positives = np.bincount(kept, weights=label[chosen] > 0.5, minlength=num_bins).astype(np.float64)
    return np.bincount(kept, minlength=num_bins).astype(np.float64), positives


def binned_auc(
    scores: NDArray[np.float64], positives: NDArray[np.float64], negatives: NDArray[np.float64]
) -> tuple[float, float]:
    """AUC of bins ranked by `scores` [B] and its standard error; ties count half, 0.5 where a class is absent.

    Source of the error: Hanley and McNeil, The meaning and use of the area under a ROC curve, Radiology 1982.
    """
    _, group = np.unique(scores, return_inverse=True)
    hits, misses = np.bincount(group, weights=positives), np.bincount(group, weights=negatives)
    num_hits, num_misses = hits.sum(), misses.sum()
    if num_hits == 0 or num_misses == 0:
        return 0.5, 0.5
    area = float((hits * (np.cumsum(misses) - misses / 2)).sum() / (num_hits * num_misses))
    both_hits, both_misses = area / (2 - area), 2 * area * area / (1 + area)
    spread = (num_hits - 1) * (both_hits - area * area) + (num_misses - 1) * (both_misses - area * area)
    return area, float(np.sqrt(max(0.0, area * (1 - area) + spread) / (num_hits * num_misses)))
