"""The running platform that an evaluation judges: the workspace's own, or one with models trained anew."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from core.errors import MissingStageError
from core.settings import Settings
from serving.bootstrap import Runtime, build_runtime
from serving.funnel.ports import HeavyRanker, LightRanker, SilentObserver
from serving.funnel.runner import Funnel
from serving.snapshot import Catalogue
from serving.spec import FunnelSpec

_WARM_POSTS = 10_000


@dataclass(frozen=True)
class RuntimePlatform:
    """A serving runtime as an evaluation needs it. Builds the funnels that /feed would run, unobserved."""

    runtime: Runtime

    @property
    def spec(self) -> FunnelSpec:
        """The spec that /feed serves."""
        return self.runtime.spec

    @property
    def catalogue(self) -> Catalogue:
        """Every post the platform knows."""
        return self.runtime.snapshot.catalogue

    @property
    def model_versions(self) -> Mapping[str, str]:
        """Bundle id by kind."""
        return self.runtime.funnel.model_versions

    def build(
        self, spec: FunnelSpec, first_stage: LightRanker | None = None, second_stage: HeavyRanker | None = None
    ) -> Funnel:
        """A funnel for the spec; where a model ranks, post features are read in bulk beforehand."""
        funnel = self.runtime.funnel_for(
            spec, first_stage=first_stage, second_stage=second_stage, observer=SilentObserver()
        )
        if spec.second_stage is not None and second_stage is None:
            self._warm(funnel)
        return funnel

    def _warm(self, funnel: Funnel) -> None:
        rows = np.flatnonzero(self.catalogue.is_recommendable)
        at_seconds = self.runtime.clock.now().timestamp()
        for start in range(0, len(rows), _WARM_POSTS):
            funnel.features.warm(rows[start : start + _WARM_POSTS], at_seconds)


@contextmanager
def opened(settings: Settings) -> Iterator[RuntimePlatform]:
    """The platform of the settings' workspace. Raises MissingStageError when a part of its spec is not there."""
    runtime = build_runtime(settings)
    try:
        missing = runtime.degraded()
        if missing:
            raise MissingStageError(
                f"{', '.join(missing)} of the funnel ({'; '.join(runtime.parts.problems.values())})",
                settings.workspace.root,
                "make pipeline",
            )
        yield RuntimePlatform(runtime)
    finally:
        runtime.close()
