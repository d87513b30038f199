"""Which protocol a folder of published data is for, by the files that it holds."""

from collections.abc import Callable
from pathlib import Path

from training.published.kuairand_benchmark import benchmark_kuairand
from training.published.outcome import Outcome
from training.published.pair_benchmark import benchmark_pairs
from training.published.sequence_benchmark import benchmark_sequences


def benchmark_of(folder: Path) -> Callable[..., Outcome]:
    """The benchmark that reads this folder; sequences where nothing else is told by the names of its files."""
    if (folder / "train.txt").exists():
        return benchmark_pairs
    return benchmark_kuairand if any(folder.glob("log_standard_*.csv")) else benchmark_sequences
