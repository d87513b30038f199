"""Closed-loop evaluation: the real funnel serves held-out users of a world, and the truth judges its slates."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from core.errors import InputError
from core.schema import HEADS
from core.settings import Settings
from core.workspace import DatasetManifest
from events.synthetic.truth import Truth
from operations.diagnosis import losses
from operations.measure import CEILING, FLOOR
from operations.outcome import Outcome, PostFacts, summarise
from operations.policies import DIAGNOSTIC, HEADLINE, diagnostic_policies, headline_policies, without_exploration
from operations.serving_run import Run, joined, serve_all
from operations.visits import Population, Visit, draw_visits, held_out_population
from serving.funnel.ports import HeavyRanker, LightRanker
from serving.funnel.runner import Funnel
from serving.funnel.value import weight_vector
from serving.snapshot import Catalogue
from serving.spec import FunnelSpec


@dataclass(frozen=True)
class EvaluationConfig:
    """What an evaluation serves and how it is summed up."""

    num_seeds: int = 5
    num_users: int = 250
    slots: int = 20
    is_retrained: bool = False
    """Train the three models anew for every seed, so that the spread covers training noise."""
    diagnosed_seeds: int = 1
    """Seeds whose visits also go through the diagnostic policies."""
    resamples: int = 1000

    def __post_init__(self) -> None:
        if min(self.num_seeds, self.num_users, self.slots) < 1:
            raise ValueError(f"seeds, users and slots must be positive: {self}")

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds by number, from 1."""
        return tuple(range(1, self.num_seeds + 1))


class Platform(Protocol):
    """A running funnel of one workspace."""

    @property
    def spec(self) -> FunnelSpec: ...

    @property
    def catalogue(self) -> Catalogue: ...

    @property
    def model_versions(self) -> Mapping[str, str]: ...

    def build(
        self, spec: FunnelSpec, first_stage: LightRanker | None = None, second_stage: HeavyRanker | None = None
    ) -> Funnel:
        """A funnel for the spec; a ranker given here takes the place of the model's."""
        ...


OpenPlatform = Callable[[int], AbstractContextManager[Platform]]
"""Opens the platform to be judged for a seed; the same one each time unless models are trained anew."""

Advance = Callable[[str], None]
"""Told after every request what is being served."""


def world_manifest(settings: Settings) -> DatasetManifest:
    """The manifest of a simulated world. Raises InputError for data whose truth nobody knows."""
    manifest = settings.workspace.manifest()
    if manifest.kind != "world":
        raise InputError(
            f"dataset {settings.workspace.root.name} is of kind {manifest.kind}: no truth exists that could judge a "
            "slate; its offline evaluation is `python -m training evaluate`. Closed-loop evaluation needs world, "
            "world_b or null_world, such as `make evaluate DATASET=world`"
        )
    return manifest


def num_requests(config: EvaluationConfig, num_users: int) -> int:
    """Requests of the whole evaluation, for a progress bar."""
    diagnosed = min(config.diagnosed_seeds, config.num_seeds) * len(DIAGNOSTIC)
    return num_users * (config.num_seeds * len(HEADLINE) + diagnosed)


def evaluate(
    settings: Settings,
    config: EvaluationConfig,
    open_platform: OpenPlatform,
    population: Population | None = None,
    advance: Advance = lambda _: None,
) -> Outcome:
    """What every policy is worth, over all seeds. Nothing of the requests served is logged.

    Raises InputError for a dataset without truth and MissingStageError before the pipeline ran.
    """
    manifest = world_manifest(settings)
    at = manifest.anchor_at or manifest.last_event_at
    truth = Truth.load(settings.workspace)
    population = population or held_out_population(settings)
    collected = _Collected(config)
    for seed in config.seeds:
        visits = draw_visits(population, seed, config.num_users, config.slots, at)
        with open_platform(seed) as platform:
            collected.add(seed, visits, platform, truth, advance)
    served = {name: joined(collected.runs[name]).served for name in HEADLINE}
    is_new = np.array([visit.is_new_user for visit in collected.visits])
    summaries, wins = summarise(served, collected.facts, is_new, np.random.default_rng(0), config.resamples)
    diagnosed = {name: joined(runs) for name, runs in collected.diagnosed.items()}
    return Outcome(
        dataset=settings.workspace.root.name,
        data_version=manifest.data_version,
        at=at.isoformat(),
        seeds=config.seeds,
        num_users=len(is_new),
        num_new_users=int(is_new.sum()),
        slots=config.slots,
        is_retrained=config.is_retrained,
        has_headroom=wins,
        headroom=float((served[CEILING].values() - served[FLOOR].values()).mean()),
        policies=summaries,
        losses=losses(diagnosed) if wins and diagnosed else (),
        models=collected.models,
    )


class _Collected:
    """Runs of every seed so far, by policy."""

    def __init__(self, config: EvaluationConfig) -> None:
        self._config = config
        self.visits: list[Visit] = []
        self.runs: dict[str, list[Run]] = {}
        self.diagnosed: dict[str, list[Run]] = {}
        self.models: dict[str, str] = {}
        self.facts = PostFacts.none()

    def add(self, seed: int, visits: list[Visit], platform: Platform, truth: Truth, advance: Advance) -> None:
        """Serves the visits of one seed with every policy."""
        is_diagnosed = self._config.seeds.index(seed) < self._config.diagnosed_seeds
        spec = without_exploration(platform.spec)
        weights = weight_vector(HEADS, spec.value_model.weights)
        builders = headline_policies(spec, platform.build, truth)
        builders += diagnostic_policies(spec, platform.build, truth) if is_diagnosed else []
        for builder in builders:
            policy = builder()
            run = serve_all(policy, visits, truth, weights, self._config.slots, partial(advance, policy.name))
            if policy.name in HEADLINE:
                self.runs.setdefault(policy.name, []).append(run)
            if is_diagnosed:
                self.diagnosed.setdefault(policy.name, []).append(run)
        self.visits += visits
        self.facts = post_facts(platform.catalogue)
        prefix = f"{seed}/" if self._config.is_retrained else ""
        self.models |= {prefix + kind: version for kind, version in platform.model_versions.items()}


def post_facts(catalogue: Catalogue) -> PostFacts:
    """Topic and creator of every post of the catalogue."""
    return PostFacts(
        post_ids=catalogue.post_ids,
        topic_ids=catalogue.topic_ids,
        creator_ids=catalogue.creator_ids,
        num_creators=len(np.unique(catalogue.creator_ids)),
    )
