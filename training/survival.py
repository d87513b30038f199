"""How much of the second stage's top survives a light ranker's cut: first stage, retrieval's own score, chance.

Test requests are those of held-out users on the test days, ranked in full by the second stage.
Legend: R requests, C candidates of one request, B its best by the second stage, K cuts.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from core.errors import BundleError, MissingStageError
from core.settings import Settings
from models.bundle import load_bundle
from models.encode import encode
from models.features import FeatureSpec
from models.towers import TwoTower
from training.examples import CANDIDATE_SCORE, Examples
from training.publish import champion_bundle
from training.set_files import load_set
from training.train import TrainOptions, fit_stage

BEST, PAGE = 100, 20
CUTS = (100, 200, 500)
CURVE = (20, 50, 100, 150, 200, 300, 500, 700, 1_000, 1_500, 2_000, 3_000, 5_000)
NARROW = 1_000
"""Requests with at most so many candidates are reported apart from those with more."""
SCORED_ROWS = 8_192
GROUPS = ("narrow", "wide")
FIRST_STAGE, TWO_TOWER, RANDOM = "first stage", "two-tower", "random"

Scorer = Callable[[Examples], NDArray[np.floating]]
Told = Callable[[str], None]


@dataclass(frozen=True)
class Cut:
    """What one ranker leaves at one cut: means over requests, deviations over requests, and over seeds."""

    survival: float
    survival_deviation: float
    survival_spread: float
    value: float
    value_deviation: float
    value_spread: float


@dataclass(frozen=True)
class Group:
    """Requests of similar width; `cuts` by ranker and cut, `curves` the mean survival at each of CURVE."""

    requests: int
    candidates: float
    cuts: Mapping[str, Mapping[int, Cut]]
    curves: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Survival:
    """The report: groups by name, and how many trainings of the first stage it is a mean of."""

    groups: Mapping[str, Group]
    seeds: int


def measure_survival(settings: Settings, told: Told, num_seeds: int = 1) -> Survival:
    """The report on the test part of the first stage's set: champions, or `num_seeds` trainings of the first stage.

    Raises MissingStageError without a set, champions or test requests.
    """
    example_set = load_set(settings.workspace.training_sets, "first_stage")
    if not example_set.manifest.rows_by_split.get("test"):
        raise MissingStageError(
            f"test requests in the training set first_stage (it has {example_set.manifest.rows_by_split})",
            example_set.folder,
            "python -m serving draw-candidates and then python -m training first-stage",
        )
    test = example_set.examples("test")
    told("retrieval's scores")
    rankers: dict[str, list[Scorer]] = {FIRST_STAGE: [], TWO_TOWER: [_champion(settings, "retrieval")], RANDOM: []}
    for seed in range(num_seeds):
        told(f"first stage, seed {seed}")
        rankers[FIRST_STAGE].append(_trained(settings, seed) if num_seeds > 1 else _champion(settings, "first_stage"))
        rankers[RANDOM].append(_random(seed))
    scores = {name: [score(test) for score in scorers] for name, scorers in rankers.items()}
    return Survival(dict(_groups(test, scores)), num_seeds)


def _groups(test: Examples, scores: Mapping[str, list[NDArray[np.floating]]]) -> Iterator[tuple[str, Group]]:
    values = np.asarray(test.columns[CANDIDATE_SCORE], dtype=np.float64)
    requests = request_rows(test.request_ids)
    is_narrow = [len(rows) <= NARROW for rows in requests]
    for name, wanted in zip(GROUPS, (True, False), strict=True):
        own = [rows for rows, narrow in zip(requests, is_narrow, strict=True) if narrow == wanted]
        if not own:
            continue
        cuts, curves = {}, {}
        for ranker, per_seed in scores.items():
            found = [[cut_request(values[rows], seed[rows]) for rows in own] for seed in per_seed]
            places = [np.array([np.searchsorted(r.places, CURVE) / len(r.places) for r in seed]) for seed in found]
            curves[ranker] = tuple(np.mean(places, axis=(0, 1)).tolist())
            cuts[ranker] = {cut: _cut(found, cut) for cut in CUTS}
        yield name, Group(len(own), float(np.mean([len(rows) for rows in own])), cuts, curves)


@dataclass(frozen=True)
class CutRequest:
    """One request as a ranker leaves it: `places` [B] of the best by its order, sorted; value left at each of CUTS."""

    places: NDArray[np.int64]
    value: Mapping[int, float]


def cut_request(values: NDArray[np.float64], scores: NDArray[np.floating]) -> CutRequest:
    """What the ranker that gives `scores` [C] leaves of the second stage's `values` [C]; ties keep their order.

    Value is that of the best page among the survivors over the best page of all; NaN where that is not positive.
    """
    by_value, by_score = np.argsort(-values, kind="stable"), np.argsort(-scores, kind="stable")
    place = np.empty(len(values), dtype=np.int64)
    place[by_score] = np.arange(len(values))
    whole = values[by_value[:PAGE]].sum()
    pages = {cut: np.sort(values[by_score[:cut]])[::-1][:PAGE].sum() for cut in CUTS}
    left = {cut: float(page / whole) if whole > 0 else float("nan") for cut, page in pages.items()}
    return CutRequest(np.sort(place[by_value[:BEST]]), left)


def _cut(found: list[list[CutRequest]], cut: int) -> Cut:
    survived_SR = np.array([[(r.places < cut).mean() for r in seed] for seed in found])
    value_SR = np.array([[r.value[cut] for r in seed] for seed in found])
    return Cut(*_moments(survived_SR), *_moments(value_SR))


def _moments(of_SR: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean, deviation over requests (mean over seeds), deviation of the seeds' means."""
    means = np.nanmean(of_SR, axis=1)
    return float(means.mean()), float(np.nanstd(of_SR, axis=1).mean()), float(means.std())


def request_rows(request_ids: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Rows of each request, in order of its first row."""
    _, first, inverse = np.unique(request_ids, return_index=True, return_inverse=True)
    order = np.argsort(first[inverse], kind="stable")
    return [rows for rows in np.split(order, np.flatnonzero(np.diff(request_ids[order])) + 1) if len(rows)]


def _champion(settings: Settings, kind: str) -> Scorer:
    bundle = load_bundle(champion_bundle(settings, kind))
    if not isinstance(bundle.module, TwoTower):
        raise BundleError(f"bundle {bundle.bundle_id} has no two towers; expected {kind}")
    module = bundle.module
    return lambda rows: pair_scores(bundle.spec, module, rows)


def _random(seed: int) -> Scorer:
    return lambda rows: np.random.default_rng(seed).random(rows.num_rows)


def _trained(settings: Settings, seed: int) -> Scorer:
    fitted = fit_stage(settings, "first_stage", TrainOptions(seed=seed))
    return lambda rows: pair_scores(fitted.spec, fitted.module, rows)  # type: ignore[arg-type]


@torch.inference_mode()
def pair_scores(spec: FeatureSpec, towers: TwoTower, rows: Examples) -> NDArray[np.float32]:
    """Inner product of each row's user and post, [N]."""
    users, user_of = rows.users()
    users_RD = towers.user_vectors(encode(spec, "user", users))
    scores = []
    for start in range(0, rows.num_rows, SCORED_ROWS):
        part = slice(start, start + SCORED_ROWS)
        columns = {name: rows.columns[name][part] for name in spec.columns("post")}
        posts_ND = towers.post_vectors(encode(spec, "post", columns))
        scores.append((users_RD[torch.from_numpy(user_of[part])] * posts_ND).sum(1).numpy())
    return np.concatenate(scores)
