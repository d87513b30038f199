"""How much of the log an off-policy estimate can use: slates of one spec, weighed for specs with other weights.

For each slate the logging spec's propensities p are on record; a target spec gives q, the probability of the same
choice below the same posts. Three weights, from least to most demanding:

    per post   q_k / p_k                     a change judged position by position, the posts above as logged
    prefix     product of q_j / p_j, j <= k  position k with all that led to it (McInerney et al., KDD 2020)
    page       product over the page         whole pages (IPS)

ESS = (sum w)^2 / sum w^2 (Kong 1992) is the number of rows of the target's own log that the weighted rows are worth.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from core.errors import StoreUnavailableError
from core.ids import MAX_ID
from serving.funnel.request import FeedRequest, Slate
from serving.funnel.rerank import Rerank
from serving.funnel.runner import Funnel
from serving.funnel.value import values, weight_vector
from serving.snapshot import Catalogue
from serving.spec import FunnelSpec
from serving.spec_file import with_overlay


@dataclass(frozen=True)
class Support:
    """Share of the log that is left when one weight is scaled by `factor`, by how it is weighed."""

    head: str
    factor: float
    per_post: float
    prefix: float
    page: float
    covered: float
    """Mean weight per post: 1 where the log can hold whatever the target would choose, less where it cannot."""


def whole_spec(spec: FunnelSpec) -> FunnelSpec:
    """The spec whose slate keeps every scored candidate, so that what was not shown is known as well."""
    return with_overlay(spec, {"rerank": {"slate_size": 100_000}})


def measure_support(
    spec: FunnelSpec, funnel: Funnel, requests: Iterable[FeedRequest], page: int, change: float
) -> list[Support]:
    """ESS / N of every value-model weight raised and lowered by `change`. `funnel` runs `whole_spec(spec)`.

    Slates without a value (a degraded request) are left out. Raises StoreUnavailableError where none is left.
    """
    slates = [slate for slate in map(funnel.rank, requests) if "value" in slate.candidates.scores]
    if not slates:
        raise StoreUnavailableError(
            "no request was ranked by the second stage; train it, run `python -m feature_repo materialize`, see /readyz"
        )
    found = []
    for head in spec.value_model.weights:
        for factor in (1 - change, 1 + change):
            ratios = _ratios(scaled(spec, head, factor), funnel.snapshot.catalogue, slates, page)
            products = np.asarray(np.cumprod(ratios, axis=1), dtype=np.float64)
            found.append(
                Support(
                    head,
                    factor,
                    ess_share(ratios),
                    ess_share(products),
                    ess_share(products[:, -1]),
                    float(ratios.mean()),
                )
            )
    return found


def scaled(spec: FunnelSpec, head: str, factor: float) -> FunnelSpec:
    """The spec with one weight multiplied."""
    return with_overlay(spec, {"value_model": {"weights": {head: spec.value_model.weights[head] * factor}}})


def ess_share(weights: NDArray[np.float64]) -> float:
    """Effective sample size over the number of rows."""
    total, squares = float(weights.sum()), float((weights**2).sum())
    return total**2 / (squares * weights.size) if squares else 0.0


def _ratios(target: FunnelSpec, catalogue: Catalogue, slates: list[Slate], page: int) -> NDArray[np.float64]:
    """q / p of each position of each slate's first page, [S, page]; 1 beyond the end of a short slate."""
    rerank = Rerank(target, catalogue)
    ratios = np.ones((len(slates), page))
    for place, slate in enumerate(slates):
        size = min(page, len(slate))
        q = target_propensities(rerank, target, slate, size)
        ratios[place, :size] = q / slate.propensities[:size]
    return ratios


def target_propensities(rerank: Rerank, target: FunnelSpec, slate: Slate, size: int) -> NDArray[np.float64]:
    """Probability of the first `size` choices of a whole slate under the target's weights and rules."""
    if slate.candidates.probabilities is None:
        raise ValueError(f"slate {slate.request_id} was not ranked by the value model")
    score = values(slate.candidates.probabilities, weight_vector(slate.heads, target.value_model.weights))
    request = FeedRequest(slate.user_id, slate.served_at)
    return rerank.propensities(request, slate.candidates, score, range(size))


def drawn_requests(user_ids: NDArray[np.int64], count: int, at: datetime, seed: int) -> Iterator[FeedRequest]:
    """A request each of `count` users drawn with replacement."""
    rng = np.random.default_rng(seed)
    for user_id in rng.choice(user_ids, size=count):
        yield FeedRequest(int(user_id), at, request_id=int(rng.integers(MAX_ID)))
