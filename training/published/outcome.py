"""What a benchmark on published data found: metrics by model and seed, beside the figures of papers."""

import resource
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.table import Table

KIBIBYTE = 1024

PUBLISHED: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    # BARS-Match gowalla_m1 and movielens1m_m1
    "gowalla": {
        "SimpleX": {"recall@20": 0.1872, "ndcg@20": 0.1557},
        "UltraGCN": {"recall@20": 0.1862, "ndcg@20": 0.1580},
        "YoutubeDNN": {"recall@20": 0.1754, "ndcg@20": 0.1473},
    },
    # As reported by Rajput et al., TIGER, NeurIPS 2023, and for SASRec with full softmax by later work
    "beauty": {
        "SASRec, full softmax": {"hr@10": 0.0859, "ndcg@10": 0.0503},
        "TIGER": {"hr@10": 0.0648, "ndcg@10": 0.0384},
        "SASRec": {"hr@10": 0.0605, "ndcg@10": 0.0318},
    },
    # On all of the published window; FM of the data's own benchmark, on four times the rows
    "kuairand": {
        "FM, 04-29..05-08": {"gauc": 0.6610, "ndcg@5": 0.5282},
        "best public claim, 04-29..05-08": {"gauc": 0.6825, "ndcg@5": 0.5408},
    },
    "movielens1m": {
        "SimpleX": {"recall@20": 0.2802, "ndcg@20": 0.2670},
        "UltraGCN": {"recall@20": 0.2787, "ndcg@20": 0.2642},
        "LightGCN": {"recall@20": 0.2576, "ndcg@20": 0.2427},
    },
}


Told = Callable[[str, int, int], None]
"""Told (what, steps done, steps planned)."""


@dataclass(frozen=True)
class SeedRun:
    """One model of one seed."""

    metrics: Mapping[str, float]
    seconds: float
    """From the pairs in memory to vectors that can be searched."""


@dataclass(frozen=True)
class Outcome:
    """Runs by model, ours first."""

    dataset: str
    runs: Mapping[str, Sequence[SeedRun]]
    differences: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Of the first model from others on the same rows: `difference`, `low` and `high` by what is compared."""
    shown: Sequence[str] = ()
    """Metrics of the table; all of them where none is named."""
    peak_bytes: int = field(default_factory=lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBIBYTE)
    """Most memory the process ever held."""

    def summary(self, model: str) -> dict[str, dict[str, float]]:
        """Mean and deviation over seeds by metric."""
        runs = self.runs[model]
        return {name: mean_and_deviation([run.metrics[name] for run in runs]) for name in runs[0].metrics}

    def seconds(self, model: str) -> float:
        """Median over seeds."""
        return statistics.median(run.seconds for run in self.runs[model])

    def table(self) -> Table:
        """Models as rows, published ones below ours."""
        names = list(self.shown or next(iter(self.runs.values()))[0].metrics)
        table = Table("model", "seeds", *names, "seconds", title=f"{self.dataset}, mean ± deviation over seeds")
        for model, runs in self.runs.items():
            found = self.summary(model)
            spreads = {n: f" ± {found[n]['sd']:.4f}" if len(runs) > 1 else "" for n in names if n in found}
            cells = [f"{found[n]['mean']:.4f}{spreads[n]}" if n in found else "" for n in names]
            table.add_row(model, str(len(runs)), *cells, f"{self.seconds(model):.0f}")
        table.add_section()
        for model, figures in PUBLISHED.get(self.dataset, {}).items():
            table.add_row(f"{model} (published)", "", *(f"{figures[n]:.4f}" if n in figures else "" for n in names), "")
        return table

    def as_json(self) -> dict[str, object]:
        """The machine-readable line; metrics of the first model, the others as baselines."""
        ours, *others = self.runs
        return {
            "dataset": self.dataset,
            "model": ours,
            "metrics": _rounded(self.summary(ours)),
            "seeds": len(self.runs[ours]),
            "seconds": round(self.seconds(ours), 1),
            "peak_bytes": self.peak_bytes,
            "baselines": {model: _rounded(self.summary(model)) for model in others},
            **({"differences": _rounded(self.differences)} if self.differences else {}),
        }


def mean_and_deviation(values: Sequence[float]) -> dict[str, float]:
    """`mean` and `sd`, the sample's deviation, 0 for one value."""
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else 0.0}


def _rounded(summary: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {name: {key: round(value, 5) for key, value in found.items()} for name, found in summary.items()}
