"""The policies of an evaluation: funnel specs and rankers, all run by the same funnel code.

| policy | sources | first stage | second stage |
|---|---|---|---|
| random, popularity, item_to_item, two_tower | one | - | - |
| funnel | all | model | model |
| oracle | every eligible post | truth | truth |

Between oracle and funnel stand two diagnostic policies that replace one true stage by the real one at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from core.schema import HEADS
from events.synthetic.truth import Truth
from operations.measure import CEILING, FLOOR
from operations.truth_ranker import TrueProbabilities, TrueValues
from serving.funnel.ports import HeavyRanker, LightRanker
from serving.funnel.runner import Funnel
from serving.funnel.value import weight_vector
from serving.spec import FunnelSpec
from serving.spec_file import load_overlay, with_overlay

SPECS = Path(__file__).parent / "specs"

BASELINES = (FLOOR, "popularity", "item_to_item", "two_tower")
FULL_FUNNEL = "funnel"
TRUE_RANKING = "retrieval with true ranking"
TRUE_SECOND_STAGE = "first stage with true ranking"
NO_FIRST_STAGE = "no first stage"
HEADLINE = (*BASELINES, FULL_FUNNEL, CEILING)
"""The policies of the headline table, in its order."""

DIAGNOSTIC = (TRUE_RANKING, TRUE_SECOND_STAGE, NO_FIRST_STAGE)


class FunnelFactory(Protocol):
    """Builds a funnel of the running platform for a spec; a ranker given here takes the place of the model's."""

    def __call__(
        self, spec: FunnelSpec, first_stage: LightRanker | None = None, second_stage: HeavyRanker | None = None
    ) -> Funnel: ...


@dataclass(frozen=True)
class Policy:
    """One way of making slates. `probe` is the first true ranker in it, which remembers its last candidates."""

    name: str
    funnel: Funnel
    probe: TrueValues | TrueProbabilities | None = None


def without_exploration(spec: FunnelSpec) -> FunnelSpec:
    """The spec with the best post at every position: what is judged is the ranking, not the price of exploring."""
    return with_overlay(spec, {"exploration": {"temperature": 0.0, "probability": 0.0, "page_floor": 0.0}})


def load_spec_overlay(name: str) -> dict[str, Any]:
    """An overlay of this room by file name."""
    found: dict[str, Any] = yaml.safe_load((SPECS / f"{name}.yaml").read_text())
    return found


def baseline(name: str, base: FunnelSpec, build: FunnelFactory) -> Policy:
    """A shipped overlay of the funnel as a policy."""
    return Policy(name, build(with_overlay(base, load_overlay(name))))


def oracle(base: FunnelSpec, build: FunnelFactory, truth: Truth) -> Policy:
    """The policy that knows the truth, under the same eligibility, sizes and rerank rules."""
    return _with_truth(CEILING, with_overlay(base, load_spec_overlay("every_post")), build, truth)


def true_ranking(base: FunnelSpec, build: FunnelFactory, truth: Truth) -> Policy:
    """The real sources ranked by truth: the best that retrieval leaves possible."""
    return _with_truth(TRUE_RANKING, base, build, truth)


def true_second_stage(base: FunnelSpec, build: FunnelFactory, truth: Truth) -> Policy:
    """Real sources and first stage ranked by truth: the best that both leave possible."""
    second = TrueProbabilities(truth)
    return Policy(TRUE_SECOND_STAGE, build(base, second_stage=second), second)


def no_first_stage(base: FunnelSpec, build: FunnelFactory) -> Policy:
    """The real second stage over everything retrieved."""
    return Policy(NO_FIRST_STAGE, build(with_overlay(base, load_spec_overlay("no_first_stage"))))


def headline_policies(base: FunnelSpec, build: FunnelFactory, truth: Truth) -> list[Callable[[], Policy]]:
    """Builders of the headline table's policies, in its order; each is built when its turn comes."""
    baselines = [lambda name=name: baseline(name, base, build) for name in BASELINES]
    return [*baselines, lambda: Policy(FULL_FUNNEL, build(base)), lambda: oracle(base, build, truth)]


def diagnostic_policies(base: FunnelSpec, build: FunnelFactory, truth: Truth) -> list[Callable[[], Policy]]:
    """Builders of the policies between oracle and funnel."""
    return [
        lambda: true_ranking(base, build, truth),
        lambda: true_second_stage(base, build, truth),
        lambda: no_first_stage(base, build),
    ]


def _with_truth(name: str, spec: FunnelSpec, build: FunnelFactory, truth: Truth) -> Policy:
    first = TrueValues(truth, weight_vector(HEADS, spec.value_model.weights))
    return Policy(name, build(spec, first_stage=first, second_stage=TrueProbabilities(truth)), first)
