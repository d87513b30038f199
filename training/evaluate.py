"""Offline evaluation: the models beside their baselines on the same rows, in one table per task.

Ranking: second stage against LightGBM on the test rows (compare_ranking.py).
Retrieval: share of test positives among the first k of the whole catalogue as of the test's start.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from core.errors import BundleError, ConfigError
from core.schema import HEADS
from core.settings import Settings
from models.bundle import RetrievalBundle, load_bundle
from training.baselines import Factorised, ItemToItem, popularity_scores
from training.catalogue import build_catalogue
from training.compare_ranking import Ranking, compare_ranking
from training.examples import Examples
from training.index import post_vectors
from training.labels import positive_values
from training.loop import spaced_rows
from training.publish import champion_bundle
from training.recipe_features import FREQUENT_HEADS
from training.set_files import ExampleSet, load_set
from training.splits import DAY_SECONDS, SplitConfig, TimeSplit, time_split

RECALL_AT = (50, 100, 500)
RECALL_QUERIES = 3_000
QUERY_BATCH = 200
POPULARITY_DAYS = 2.0

Told = Callable[[str], None]
Metrics = dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """Metrics by model and name; `queries` counts what retrieval was measured on."""

    ranking: Ranking
    retrieval: Mapping[str, Metrics]
    queries: int


def evaluate(settings: Settings, heads: Sequence[str], told: Told, seed: int = 0, num_seeds: int = 1) -> Evaluation:
    """Both tables for the champions. Raises MissingStageError when a set or a champion is not there."""
    unknown = sorted(set(heads) - set(HEADS))
    if unknown:
        raise ConfigError(f"heads {', '.join(unknown)} do not exist; choose some of {', '.join(HEADS)}")
    data = settings.workspace.manifest()
    second_stage = load_set(settings.workspace.training_sets, "second_stage")
    split = time_split(data.first_event_at, data.last_event_at, SplitConfig(**second_stage.manifest.config["split"]))
    ranking = compare_ranking(settings, second_stage, split, heads, told, seed, num_seeds)
    retrieval_set = load_set(settings.workspace.training_sets, "retrieval")
    retrieval, queries = evaluate_retrieval(settings, retrieval_set, split, told)
    return Evaluation(ranking, retrieval, queries)


def evaluate_retrieval(
    settings: Settings, example_set: ExampleSet, split: TimeSplit, told: Told
) -> tuple[dict[str, Metrics], int]:
    """Recall of test positives per retriever, and the number of queries.

    One query per positive of the first test day whose post could already be recommended at the test's
    start; every retriever ranks the same catalogue and knows nothing later than the query.
    """
    told("catalogue at the start of the test part")
    at = datetime.fromtimestamp(split.test_from, UTC)
    catalogue = build_catalogue(settings, at, lambda done, total: None, name="catalogue_at_test")
    bundle = load_bundle(champion_bundle(settings, "retrieval"))
    if not isinstance(bundle, RetrievalBundle):
        raise BundleError(f"bundle {bundle.bundle_id} is a {bundle.manifest['kind']} model; expected retrieval")
    post_ids, vectors = post_vectors(bundle, catalogue)
    queries = retrieval_queries(example_set.examples("test"), post_ids, split.test_from)
    past = example_set.examples("train", "validation", "calibration")
    worth = positive_values(past.labels)
    is_positive = worth > 0
    recent = is_positive & (past.served_at >= split.test_from - POPULARITY_DAYS * DAY_SECONDS)
    popular = popularity_scores(past.post_ids[recent], worth[recent], post_ids)
    told("item-to-item")
    neighbours = ItemToItem(past.user_ids[is_positive], past.post_ids[is_positive], post_ids)
    told("weighted factorisation")
    codes = [np.asarray(catalogue.examples().columns[f"post_profile__{name}"]) for name in ("creator_id", "topic_id")]
    factors = Factorised(past.user_ids[is_positive], past.post_ids[is_positive], post_ids, codes)
    history = queries.columns["user_history__history_post_ids"]
    told("recall")
    user_names = bundle.spec.columns("user")

    def two_tower(rows: slice) -> NDArray[np.float32]:
        users = bundle.user_vectors({name: queries.columns[name][rows] for name in user_names})
        return users @ vectors.T

    retrievers: dict[str, Callable[[slice], NDArray[np.float32]]] = {
        "two-tower": two_tower,
        "popularity": lambda rows: np.tile(popular, (len(history[rows]), 1)),
        "item-to-item": lambda rows: neighbours.scores(np.asarray(history[rows])),
        "weighted factorisation": lambda rows: factors.scores(np.asarray(history[rows])),
    }
    found = {name: recall(score, queries.post_ids, post_ids) for name, score in retrievers.items()}
    return found, queries.num_rows


def retrieval_queries(test: Examples, catalogue_ids: NDArray[np.int64], test_from: float) -> Examples:
    """Positives of the first test day whose post is in the catalogue, evenly thinned."""
    is_query = (positive_values(test.labels) > 0) & np.isin(test.post_ids, catalogue_ids)
    is_query &= test.served_at < test_from + DAY_SECONDS
    rows = np.flatnonzero(is_query)
    return test.take(rows[spaced_rows(len(rows), RECALL_QUERIES)])


def recall(
    score: Callable[[slice], NDArray[np.float32]], wanted_Q: NDArray[np.int64], catalogue_ids: NDArray[np.int64]
) -> Metrics:
    """Share of queries whose post is among the first k by score; equal scores rank the post in their middle."""
    place_of = np.argsort(catalogue_ids)
    wanted = place_of[np.searchsorted(catalogue_ids[place_of], wanted_Q)]
    ranks = np.empty(len(wanted_Q))
    for start in range(0, len(wanted_Q), QUERY_BATCH):
        rows = slice(start, min(start + QUERY_BATCH, len(wanted_Q)))
        scores = score(rows)
        own = scores[np.arange(len(scores)), wanted[rows]][:, None]
        ranks[rows] = (scores > own).sum(1) + ((scores == own).sum(1) - 1) / 2
    return {f"recall_at_{k}": float((ranks < k).mean()) if len(ranks) else float("nan") for k in RECALL_AT}


def frequent_heads(example_set: ExampleSet) -> tuple[str, ...]:
    """click, like and long_view, as far as the test rows observe them."""
    labels = example_set.examples("test").labels
    return tuple(head for head in FREQUENT_HEADS if not np.isnan(labels[:, HEADS.index(head)]).all())
