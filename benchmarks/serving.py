"""The request path at a million posts: what a feed costs beside its bare parts, and how many a small machine gives.

    python -m benchmarks.serving [--quick] [--keep FOLDER]

Needs a finished workspace (`make pipeline`; VITRINE_VAR_DIR, VITRINE_DATASET) and grows a scratch one from it, kept for
the next run. Server, Redis and load generator are processes of one machine; every ratio is of figures of one run.

floor    FAISS's search, the same bytes from Redis, the forward passes of both stages, and an empty FastAPI route
stock    the same funnel on Feast's Redis store and get_online_features
"""

import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import yaml
from pydantic import SecretStr

from benchmarks.report import finish, print_table
from benchmarks.serving_load import Plan
from benchmarks.serving_parts import BareParts, measured
from benchmarks.serving_rows import filled_redis, server_process
from benchmarks.serving_servers import Server, asked, cpu_seconds, memory_mb, running
from benchmarks.serving_stock import fill_stock
from benchmarks.serving_world import grown, require_finished
from core.errors import VitrineError
from core.files import write_atomically
from core.settings import Settings
from serving.snapshot import load_snapshot
from serving.spec_file import load_spec, with_overlay

NUM_USERS = 100_000
SIZES = {True: (100_000,), False: (100_000, 1_000_000)}
"""Posts; the last is what the figures are of, the first what growth is told by."""
WORKERS, CONNECTIONS = 2, 16
WARM_UP, ALONE = 300, 400
"""Requests that fill the caches, and requests measured one after another."""
LOAD = 0.7
OVERLAY = {
    "sources": {"two_tower": {"quota": 800, "deadline_ms": 2_000}},
    "blend": {"max_candidates": 1_000},
    "first_stage": {"keep": 100},
    "second_stage": {"max_candidates": 100},
    # Every answer is to be ranked in full: nothing is shed, and nothing shortened for want of time.
    "overload": {"max_in_flight": 2, "max_queue": 10_000, "max_wait_ms": 10_000, "busy_wait_ms": 10_000},
    "deadlines": {"request_ms": 60_000, "user_ms": 9_000, "retrieval_ms": 9_000, "first_stage_ms": 9_000}
    | {"second_stage_ms": 9_000, "rerank_ms": 9_000},
}
EMPTY, ALIVE = "/empty", "/healthz"


@dataclass(frozen=True)
class Alone:
    """One request after another: milliseconds."""

    cpu_ms: float
    p50_ms: float


@dataclass(frozen=True)
class Busy:
    """All connections busy, then arrivals at LOAD of that."""

    per_second: float
    p50_ms: float
    p99_ms: float
    generator_cpu_ms: float


def main(is_quick: bool, keep: Path | None) -> None:
    settings = Settings()
    require_finished(settings.workspace)
    folder = keep or settings.workspace.root / "tmp" / "serving"
    seconds = 5.0 if is_quick else 20.0
    alone = {}
    for num_posts in SIZES[is_quick]:
        with world(settings, folder, num_posts) as (here, env, redis_process):
            paths = feed_paths(here)
            with running("ours", 1, env, ALIVE) as server:
                alone[num_posts] = one_by_one(server, paths, [redis_process])
            if num_posts == SIZES[is_quick][-1]:
                raw = at_full_size(settings, here, env, redis_process, paths, seconds)
    report(is_quick, alone, raw)


@contextmanager
def world(settings: Settings, folder: Path, num_posts: int) -> Iterator[tuple[Settings, dict[str, str], int]]:
    """Settings of the grown workspace, the environment of its servers, and the process of its Redis."""
    workspace = grown(settings.workspace, folder / f"posts_{num_posts}", num_posts, NUM_USERS)
    spec = folder / "funnel.yaml"
    write_atomically(
        spec, yaml.safe_dump(with_overlay(load_spec(settings.funnel_spec), OVERLAY).model_dump(mode="json"))
    )
    with filled_redis(settings.workspace, workspace, settings) as url:
        here = settings.model_copy(
            update={
                "var_dir": folder,
                "dataset": workspace.root.name,
                "redis_url": SecretStr(url),
                "num_threads": 1,
                "funnel_spec": spec,
            }
        )
        here.__dict__.pop("workspace", None)  # the copy took the original's along
        env = {
            "VITRINE_VAR_DIR": str(folder),
            "VITRINE_DATASET": workspace.root.name,
            "VITRINE_REDIS_URL": url,
            "VITRINE_NUM_THREADS": "1",
            "VITRINE_KEY_RATE": "0",
            "VITRINE_FUNNEL_SPEC": str(spec),
            "VITRINE_LOG_LEVEL": "WARNING",
            "OMP_NUM_THREADS": "1",
        }
        os.environ |= env  # adapters read the environment's settings themselves
        yield here, env, server_process(url)


def feed_paths(settings: Settings) -> tuple[str, ...]:
    """First pages of users in a random order."""
    users = load_snapshot(settings.workspace).users.user_ids
    return tuple(f"/feed?user_id={u}&limit=20" for u in np.random.default_rng(1).permutation(users)[:20_000].tolist())


def one_by_one(server: Server, paths: tuple[str, ...], others: list[int]) -> Alone:
    """One connection: warmed up, then measured; `others` are processes that work for the server."""
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client:
        for path in paths[:WARM_UP]:
            client.get(path).raise_for_status()
    processes = [*server.processes, *others]
    before = cpu_seconds(processes)
    seen = asked(Plan(server.port, paths[WARM_UP : WARM_UP + ALONE], 1e9, 1, limit=ALONE))
    return Alone((cpu_seconds(processes) - before) / seen.num_answers * 1000, seen.percentile_ms(50))


def busy(server: Server, paths: tuple[str, ...], seconds: float) -> Busy:
    """Answers per second, and latencies at LOAD of them."""
    full = asked(Plan(server.port, paths, seconds, CONNECTIONS))
    at_load = asked(Plan(server.port, paths[::-1], seconds, 4 * CONNECTIONS, LOAD * full.per_second))
    return Busy(
        full.per_second,
        at_load.percentile_ms(50),
        at_load.percentile_ms(99),
        full.own_cpu_seconds / full.num_answers * 1000,
    )


def at_full_size(
    settings: Settings,
    here: Settings,
    env: dict[str, str],
    redis_process: int,
    paths: tuple[str, ...],
    seconds: float,
) -> dict[str, Any]:
    """Every figure of the largest catalogue but the request alone."""
    users = [int(path.split("=")[1].split("&")[0]) for path in paths[: WARM_UP + ALONE // 2]]
    parts = measured(here, redis_process, users, WARM_UP)
    with running("empty", WORKERS, env, EMPTY) as server:
        empty_alone, empty = one_by_one(server, (EMPTY,) * (WARM_UP + ALONE), []), busy(server, (EMPTY,), seconds)
    with running("ours", WORKERS, env, ALIVE) as server:
        asked(Plan(server.port, paths[::-1], 3.0, CONNECTIONS))
        ours = busy(server, paths, seconds)
        cached = asked(Plan(server.port, paths, seconds, CONNECTIONS, is_scrolling=True)).per_second
        memory = [memory_mb(process) for process in server.processes]
        stages = stage_ms(server)
    fill_stock(settings.workspace, here.workspace, env["VITRINE_REDIS_URL"])
    stock = {name: on_stock(env | changed, paths, seconds) for name, changed in _stock_specs(here).items()}
    return {
        "parts": parts, "empty_alone": empty_alone, "empty": empty, "ours": ours, "cached": cached, "memory": memory,
        "stages": stages, "stock": stock,
    }  # fmt: skip


def on_stock(env: Mapping[str, str], paths: tuple[str, ...], seconds: float) -> float:
    """Requests per second of the funnel on Feast's own store."""
    with running("stock", WORKERS, env, ALIVE) as server:
        asked(Plan(server.port, paths[::-1], 3.0, CONNECTIONS))
        return asked(Plan(server.port, paths, seconds, CONNECTIONS)).per_second


def _stock_specs(here: Settings) -> dict[str, dict[str, str]]:
    """The funnel as it is on stock parts, which keep no rows, and with our row caches in front of the stock store."""
    bare = here.workspace.root / "funnel-stock.yaml"
    kept = {key: {"max_entries": 1, "max_age_seconds": 0.001} for key in ("post_features", "creator_features")}
    spec = with_overlay(load_spec(here.funnel_spec), {"caches": kept})
    write_atomically(bare, yaml.safe_dump(spec.model_dump(mode="json")))
    return {"stock": {"VITRINE_FUNNEL_SPEC": str(bare)}, "behind_our_cache": {}}


def stage_ms(server: Server) -> dict[str, float]:
    """Mean milliseconds of each stage in one of the processes, from its metrics."""
    text = httpx.get(f"http://127.0.0.1:{server.port}/metrics").text
    found: dict[str, dict[str, float]] = {"sum": {}, "count": {}}
    for line in text.splitlines():
        for kind, values in found.items():
            if line.startswith(f"vitrine_stage_seconds_{kind}{{"):
                values[line.split('stage="')[1].split('"')[0]] = float(line.rsplit(" ", 1)[1])
    return {name: found["sum"][name] / max(count, 1) * 1000 for name, count in found["count"].items()}


def report(is_quick: bool, alone: Mapping[int, Alone], raw: Mapping[str, Any]) -> None:
    """The table and the last line."""
    parts: BareParts = raw["parts"]
    ours, empty, whole = raw["ours"], raw["empty"], alone[SIZES[is_quick][-1]]
    floor = parts.search + parts.redis + parts.first_stage + parts.second_stage + raw["empty_alone"].cpu_ms
    growth = None if is_quick else whole.p50_ms / alone[SIZES[is_quick][0]].p50_ms
    stock, cached_stock = raw["stock"]["stock"], raw["stock"]["behind_our_cache"]
    own = [m["own"] for m in raw["memory"][1:]]
    rows = [
        ["CPU per request, ms", f"{whole.cpu_ms:.2f}", f"{floor:.2f} bare", f"{whole.cpu_ms / floor:.2f}", "≤ 1.8"],
        *[[f"  {n}", "", f"{v:.2f} bare", "", ""] for n, v in asdict(parts).items() if n in _TIMES],
        ["  empty route", "", f"{raw['empty_alone'].cpu_ms:.2f} bare", "", ""],
        ["second stage / whole", "", "", f"{parts.second_stage / whole.cpu_ms:.2f}", "≤ 0.33"],
        ["requests per second", f"{ours.per_second:.0f}", f"{empty.per_second:.0f} empty",
         f"1/{empty.per_second / ours.per_second:.0f}", "≥ 1/30"],
        ["p50 and p99 at 70 %, ms", f"{ours.p50_ms:.1f}, {ours.p99_ms:.1f}",
         f"{empty.p50_ms:.2f}, {empty.p99_ms:.2f} empty", f"{ours.p99_ms / ours.p50_ms:.1f}", "≤ 4"],
        ["against stock", f"{ours.per_second:.0f}", f"{stock:.1f} stock",
         f"{ours.per_second / stock:.1f}",
         "≥ 10"],
        ["  stock behind our row cache", "", f"{cached_stock:.1f}", f"{ours.per_second / cached_stock:.1f}", ""],
        ["pages from cache per second", f"{raw['cached']:.0f}", f"{ours.per_second:.0f} ranked",
         f"{raw['cached'] / ours.per_second:.1f}", "≥ 8"],
        ["memory of one more worker, MB", f"{max(own):.0f}", "", "", "≤ 300"],
        ["latency, 100,000 to 1 M posts", "", "", "" if growth is None else f"{growth:.2f}", "≤ 1.3"],
    ]  # fmt: skip
    print_table("The request path", ["figure", "ours", "beside", "ratio", "target"], rows)
    finish(
        "serving",
        ours.per_second / stock,
        whole.cpu_ms / floor,
        is_quick,
        {
            "requests_per_second": round(ours.per_second, 1),
            "p50_ms": round(ours.p50_ms, 2),
            "p99_ms": round(ours.p99_ms, 2),
            "cached_ratio": round(raw["cached"] / ours.per_second, 2),
            "share_of_empty_route": round(ours.per_second / empty.per_second, 4),
            "second_stage_share": round(parts.second_stage / whole.cpu_ms, 3),
            "growth": None if growth is None else round(growth, 2),
            "worker_mb": round(max(own), 1),
            "cpu_ms": round(whole.cpu_ms, 3),
            "floor_with_user_tower_ratio": round(whole.cpu_ms / (floor + parts.user_tower), 2),
            "floor_of_torch_ratio": round(
                whole.cpu_ms / (floor - parts.first_stage - parts.second_stage + parts.torch_forwards), 2
            ),
            "parts_ms": _rounded(asdict(parts)),
            "stages_ms": _rounded(raw["stages"]),
            "alone": {str(size): _rounded(asdict(a)) for size, a in alone.items()},
            "empty": _rounded(asdict(empty) | {"cpu_ms": raw["empty_alone"].cpu_ms}),
            "generator_cpu_ms": round(ours.generator_cpu_ms, 3),
            "stock_per_second": round(stock, 2),
            "ratio_to_stock_behind_our_cache": round(ours.per_second / cached_stock, 2),
            "memory_mb": [_rounded(m) for m in raw["memory"]],
        },
    )


_TIMES = ("search", "redis", "user_tower", "first_stage", "second_stage", "torch_forwards")


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    place = sys.argv.index("--keep") + 1 if "--keep" in sys.argv else 0
    try:
        main("--quick" in sys.argv, Path(sys.argv[place]).resolve() if place else None)
    except VitrineError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
