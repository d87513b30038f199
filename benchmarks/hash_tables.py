"""Tables of ids that meet more ids than they have rows: AUC on later rows, and memory, on a stream with a long tail.

plain             every id hashed into one row
multi             two hashed rows per id, averaged
zero collision    rows of one's own; the id not met for longest gives way (lru)
rare filtered     ids met fewer than three times share one row
upsampled         the same, and rows of ids met fewer than eight times are learnt twice, at half the weight
stock             TorchRec's managed collision (MCH, lru), which maps the same ids
floor             plain hashing alone, the same ids

One thread; every run is a process of its own, whose peak memory is what is told. With `--quick` small tables alone.

python -m benchmarks.hash_tables [--quick]
"""

import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.hash_tables_plot import plot_tables
from benchmarks.hash_tables_run import CHUNK
from benchmarks.hash_tables_stream import Stream
from benchmarks.report import durations_ms, finish, print_table
from models.id_rows import IdRows, rows_of_table
from models.own_rows import RowOwners, no_owners, rows_owned

FIXED_ROWS = 500_000
HASHINGS = ("plain", "multi", "zero_collision")
KINDS: dict[str, dict[str, int]] = {
    "": {},
    "rare filtered": {"min_count": 3},
    "rare filtered, upsampled": {"min_count": 3, "at_least": 8, "most": 2},
}
IMAGE = Path(__file__).parents[1] / "docs" / "images" / "hash_tables.png"


def cases(is_quick: bool) -> Iterator[dict[str, Any]]:
    """Settings of every run, with the kind's name."""
    if is_quick:
        sizes = [(200_000, 50_000, 4)]
    else:
        sizes = [(ids, FIXED_ROWS, 24) for ids in (500_000, 5_000_000, 50_000_000)]
        sizes += [(50_000_000, 5_000_000, 24), (50_000_000, 50_000_000, 24)]
    for num_ids, num_rows, num_chunks in sizes:
        for hashing in HASHINGS:
            for kind, settings in KINDS.items():
                if hashing != "zero_collision" and (kind not in ("", "rare filtered") or (is_quick and kind)):
                    continue
                yield {
                    "kind": kind,
                    "hashing": hashing,
                    "num_ids": num_ids,
                    "num_rows": num_rows,
                    "num_chunks": num_chunks,
                } | settings
    if not is_quick:
        top = {"num_ids": 50_000_000, "num_rows": 50_000_000, "num_chunks": 24, "is_half": True}
        yield {"kind": "float16", "hashing": "zero_collision"} | top


def measured(case: dict[str, Any]) -> dict[str, Any]:
    """What a process of its own found."""
    settings = {name: value for name, value in case.items() if name != "kind"}
    command = [sys.executable, "-m", "benchmarks.hash_tables_run", json.dumps(settings)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) | {"kind": case["kind"]}
    print(found["hashing"], found["kind"], found["num_ids"], found["num_rows"], found["auc"]["model"], file=sys.stderr)
    return found


def mapping_ms(num_rows: int, seconds: float) -> dict[str, float]:
    """Milliseconds to map a chunk, new ids admitted, a chunk further each time: TorchRec's, own and plain hashing."""
    stream, at = Stream(10 * num_rows, 24), {"stock": 0, "own": 0, "floor": 0}
    chunks = [stream.chunk(number, CHUNK).ids for number in range(12)]
    stock, owners = _managed_collision(num_rows), RowOwners(no_owners(num_rows))

    def next_chunk(way: str) -> NDArray[np.int64]:
        at[way] += 1
        return chunks[at[way] % len(chunks)]

    def own() -> object:
        ids_N = next_chunk("own")
        ids, counts = np.unique(ids_N, return_counts=True)
        owners.admit(ids, counts, at["own"])
        return rows_owned(owners.owners, ids_N)

    calls = {
        "stock": lambda: stock(next_chunk("stock")),
        "own": own,
        "floor": lambda: rows_of_table(next_chunk("floor"), "t", num_rows, known=IdRows()),
    }
    return {name: taken.median for name, taken in durations_ms(calls, seconds).items()}


def _managed_collision(num_rows: int) -> Any:
    """TorchRec's module, asked to take newcomers in with every batch."""
    import torchrec
    from torchrec.modules.mc_modules import LRU_EvictionPolicy, MCHManagedCollisionModule

    policy = LRU_EvictionPolicy()
    module = MCHManagedCollisionModule(num_rows, torch.device("cpu"), policy, eviction_interval=1)

    def step(ids_N: NDArray[np.int64]) -> object:
        ids = torch.from_numpy(ids_N)
        found = {"id": torchrec.JaggedTensor(ids, lengths=torch.ones(len(ids), dtype=torch.int64))}
        return module.remap(module.profile(found))

    return step


def main(is_quick: bool) -> None:
    torch.set_num_threads(1)
    runs = [measured(case) for case in cases(is_quick)]
    rows_shown = [
        [
            f"{r['hashing']} {r['kind']}",
            *(f"{r[name]:,}" for name in ("num_ids", "num_rows")),
            f"{r['auc']['model']:.4f}",
            f"{_gain(r):.3f}",
            *(f"{r[name]:,}" for name in ("peak_megabytes", "examples_per_second")),
        ]
        for r in runs
    ]
    headings = ["", "ids at a time", "rows", "AUC", "share of gain", "peak MB", "examples/s"]
    print_table("Later rows of a long-tailed stream", headings, rows_shown)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / IMAGE.name if is_quick else IMAGE
        plot_tables(target, runs, min(r["num_rows"] for r in runs))
    sizes = (50_000,) if is_quick else (FIXED_ROWS, 10 * FIXED_ROWS)
    mapping = {num_rows: mapping_ms(num_rows, 1.0 if is_quick else 3.0) for num_rows in sizes}
    taken = mapping[sizes[-1]]
    finish(
        "hash_tables",
        taken["stock"] / taken["own"],
        taken["own"] / taken["floor"],
        is_quick,
        {
            "mapping_ms": {rows: {name: round(ms, 2) for name, ms in of.items()} for rows, of in mapping.items()},
            "runs": [{name: r[name] for name in _TOLD} | {"share_of_gain": round(_gain(r), 4)} for r in runs],
        },
    )


_TOLD = (
    "hashing",
    "kind",
    "num_ids",
    "num_rows",
    "num_chunks",
    "auc",
    "peak_megabytes",
    "examples_per_second",
    "evicted",
)


def _gain(run: dict[str, Any]) -> float:
    """How much of what true effects add to the known features' AUC the model adds."""
    a = run["auc"]
    return float((a["model"] - a["features"]) / (a["oracle"] - a["features"]))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main("--quick" in sys.argv)
