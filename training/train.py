"""Trains one stage on its training set and publishes the result."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from core.clock import WallClock
from core.errors import BundleError, InputError
from core.schema import HEADS
from core.settings import Settings
from models.bundle import SecondStageBundle, load_bundle, read_manifest
from models.calibration import apply_calibrators
from models.features import FIT_ROWS, SIDES, Columns, Feature, fit_spec
from models.fit_ids import fit_ids
from models.metrics import head_metrics
from training import processes, recipes
from training.checkpoints import Checkpoints, held
from training.device import training_device
from training.examples import Examples, taken
from training.fit_first_stage import FirstStageRun, fit_first_stage
from training.fit_retrieval import RetrievalConfig, fit_retrieval
from training.fit_second_stage import fit_second_stage
from training.importance import permutation_importance
from training.loop import FittedModel, Progress, spaced_rows
from training.plots import plot_calibration, plot_importance, plot_learning_curves
from training.publish import Findings, Published, cost_metrics, history_curves, publish, training_id, unchanged
from training.recipe_features import FREQUENT_HEADS, ID_TABLES
from training.recipes import Recipe
from training.sampling import balancing_weights
from training.set_files import ExampleSet, SetManifest, load_set
from training.shared_codes import shared_codes
from training.table_budget import TablePlan, counts_of_tables, plan_tables, with_plan
from training.upsampling import upsampled
from validation.bounds import compile_bounds

Kind = Literal["retrieval", "first_stage", "second_stage"]

QUICK_ROWS = 30_000
IMPORTANCE_ROWS = 2_000
PREDICT_ROWS = 8_192
_RECIPES = {
    "retrieval": recipes.retrieval,
    "first_stage": recipes.first_stage,
    "second_stage": recipes.second_stage,
}


@dataclass(frozen=True)
class TrainOptions:
    """What a command line decides about a training."""

    recipe: str = "default"
    seed: int = 0
    is_quick: bool = False
    is_forced: bool = False
    table_megabytes: float | None = None
    """Bytes within which tables of ids get rows without collisions; None leaves them as the recipe has them."""
    upsampled: str = ""
    """Column of an entity whose rare members' rows are repeated; "" for none."""
    without_views: tuple[str, ...] = ()
    """Views whose features the model does not get, to see what they bring."""


def train_stage(
    settings: Settings,
    kind: Kind,
    options: TrainOptions,
    progress: Progress | None = None,
    says: Callable[[str], None] = lambda _: None,
) -> Published:
    """What training `kind` on its set published. Raises MissingStageError without the set.

    Nothing is trained when neither the set nor the recipe changed since the last time, unless forced. A training
    that was killed goes on from its last checkpoint; `says` is told of it.
    """
    example_set = load_set(settings.workspace.training_sets, kind)
    train, validation, recipe = _prepared(example_set, kind, options)
    config = recipe.config() | {"is_quick": options.is_quick, "training_set": example_set.manifest.config}
    codes_of = shared_codes(settings, recipe).bundle_id
    if codes_of:
        config["codes_of"] = codes_of
    trained_from = training_id(config, example_set.manifest)
    last = None if options.is_forced else unchanged(settings, kind, trained_from)
    if last is not None:
        return last
    started_at = WallClock().now()
    name = f"{kind}-{options.recipe}-{options.seed}" + ("-quick" if options.is_quick else "")
    if processes.count() > 1:
        name += f"-{processes.number()}of{processes.count()}"
    checkpoints = Checkpoints(settings.workspace.checkpoints / name, trained_from, says=says)
    with held(checkpoints):
        fitted = _fit(recipe, train, validation, example_set, settings, progress, checkpoints)
        bounds = compile_bounds(name for side in SIDES for name in fitted.spec.columns(side))
        bundle = fitted.save(
            settings.workspace.bundles / kind, _versions(example_set.manifest, recipe), bounds, has_graph=True
        )
        with tempfile.TemporaryDirectory() as folder:
            findings = _findings(Path(folder), started_at, fitted, bundle, example_set, validation, options)
            return publish(settings, fitted, config, example_set.manifest, bundle, findings)


def fit_stage(settings: Settings, kind: Kind, options: TrainOptions, progress: Progress | None = None) -> FittedModel:
    """The trained model of `kind`, nowhere published. Raises MissingStageError without its set."""
    example_set = load_set(settings.workspace.training_sets, kind)
    train, validation, recipe = _prepared(example_set, kind, options)
    return _fit(recipe, train, validation, example_set, settings, progress)


def _prepared(example_set: ExampleSet, kind: Kind, options: TrainOptions) -> tuple[Examples, Examples, Recipe]:
    train, validation = _part(example_set, "train"), _validation(example_set)
    if options.is_quick:
        train, validation = (part.take(spaced_rows(part.num_rows, QUICK_ROWS)) for part in (train, validation))
    recipe = _RECIPES[kind](train.columns, options.recipe, options.seed, options.is_quick)
    if options.table_megabytes is not None:
        plan = planned_tables(recipe.features, train.columns, options.table_megabytes)
        recipe = replace(recipe, features=with_plan(recipe.features, plan))
    kept = tuple(f for f in recipe.features if f.name.partition("__")[0] not in options.without_views)
    return train, validation, replace(recipe, features=kept, upsampled=options.upsampled)


def planned_tables(features: Sequence[Feature], columns: Columns, megabytes: float) -> dict[str, TablePlan]:
    """Which tables of ids get rows without collisions within so many megabytes."""
    names = [name for name in ID_TABLES if any(f.table == name for f in features)]
    return plan_tables(counts_of_tables(features, columns, names), int(megabytes * 1e6))


def _part(example_set: ExampleSet, split: str) -> Examples:
    if not example_set.manifest.rows_by_split.get(split):
        raise InputError(
            f"training set {example_set.manifest.name} has no {split} rows, only "
            f"{example_set.manifest.rows_by_split}; import a longer log and run `python -m training sets`"
        )
    return example_set.examples(split)


def _validation(example_set: ExampleSet) -> Examples:
    has_own = bool(example_set.manifest.rows_by_split.get("validation"))
    return _part(example_set, "validation" if has_own else "calibration")


def _fit(
    recipe: Recipe,
    train: Examples,
    validation: Examples,
    example_set: ExampleSet,
    settings: Settings,
    progress: Progress | None,
    checkpoints: Checkpoints | None = None,
) -> FittedModel:
    if recipe.row_weights == "balanced":
        click = train.labels[:, HEADS.index("click")]
        train = replace(train, weights=balancing_weights(np.asarray(click)))
    few = train.take(slice(None, None, max(1, -(-train.num_rows // FIT_ROWS))))
    shared = shared_codes(settings, recipe)  # the second time: small beside a training
    spec = fit_ids(fit_spec(recipe.features, few.columns), train.columns, shared.codebooks)
    if recipe.upsampled:  # what was met how often is counted before
        train = upsampled(train, recipe.upsampled)
    train = processes.own_share(train)
    rest = (recipe.seed, progress, settings.num_threads, checkpoints)
    device = training_device(settings.device)
    if isinstance(recipe.run, RetrievalConfig):
        return fit_retrieval(train, validation, spec, recipe.run, *rest, device)
    if isinstance(recipe.run, FirstStageRun):
        return fit_first_stage(train, validation, spec, recipe.run, *rest, shared.tables, device)
    calibration = _part(example_set, "calibration")
    return fit_second_stage(train, validation, calibration, spec, recipe.run, *rest, shared.tables, device)


def _versions(manifest: SetManifest, recipe: Recipe) -> dict[str, str]:
    return {
        "data_version": manifest.data_version,
        "set_id": manifest.set_id,
        "feature_service": manifest.service,
        "recipe": recipe.name,
    }


def _findings(
    folder: Path,
    started_at: datetime,
    fitted: FittedModel,
    bundle_path: Path,
    example_set: ExampleSet,
    validation: Examples,
    options: TrainOptions,
) -> Findings:
    curves = {k.removeprefix("curve/"): v for k, v in history_curves(fitted.history).items() if "loss" in k}
    plots = [plot_learning_curves(folder / "learning_curve.png", curves)]
    metrics = cost_metrics(read_manifest(bundle_path))
    if fitted.kind != "second_stage":
        return Findings(started_at, metrics, plots)
    bundle = load_second_stage(bundle_path)
    metrics["validation/ne_mean"] = float(np.nanmean([fitted.metrics[f"ne_{head}"] for head in FREQUENT_HEADS]))
    if example_set.manifest.rows_by_split.get("test"):
        test = example_set.examples("test")
        probabilities = predict(bundle, test.columns)
        found = head_metrics(test.labels, probabilities, bundle.heads, test.user_ids, test.weights)
        metrics |= {f"test/{name}": value for name, value in found.items()}
        plots.append(plot_calibration(folder / "calibration.png", probabilities, test.labels, bundle.heads))
    if not options.is_quick:
        plots.append(_plot_importance(folder, bundle, validation, options.seed))
    return Findings(started_at, metrics, plots)


def load_second_stage(path: Path) -> SecondStageBundle:
    """The second-stage bundle at `path`. Raises BundleError for another kind."""
    bundle = load_bundle(path)
    if not isinstance(bundle, SecondStageBundle):
        raise BundleError(f"bundle {path} is a {bundle.manifest['kind']} model; expected a second stage")
    return bundle


def predict_logits(bundle: SecondStageBundle, columns: Mapping[str, Any]) -> NDArray[np.float32]:
    """Uncalibrated logits [N, H] of rows that each have their own user."""
    names = {side: bundle.spec.columns(side) for side in SIDES}
    num_rows = len(columns[names["post"][0]])
    parts = []
    for start in range(0, num_rows, PREDICT_ROWS):
        rows = slice(start, start + PREDICT_ROWS)
        few = taken(columns, rows)
        user, post, cross = ({name: few[name] for name in names[side]} for side in SIDES)
        parts.append(bundle.logits(user, post, cross))
    return np.concatenate(parts) if parts else np.empty((0, len(bundle.heads)), dtype=np.float32)


def predict(bundle: SecondStageBundle, columns: Mapping[str, Any]) -> NDArray[np.float64]:
    """Calibrated probabilities [N, H] of rows that each have their own user."""
    return apply_calibrators(predict_logits(bundle, columns), bundle.calibrators)


def _plot_importance(folder: Path, bundle: SecondStageBundle, validation: Examples, seed: int) -> Path:
    few = validation.take(spaced_rows(validation.num_rows, IMPORTANCE_ROWS))
    importance = permutation_importance(
        lambda columns: predict(bundle, columns),
        few.columns,
        few.labels,
        list(dict.fromkeys(f.column for f in bundle.spec.features)),
        [bundle.heads.index(head) for head in FREQUENT_HEADS if head in bundle.heads],
        np.random.default_rng(seed),
    )
    return plot_importance(folder / "feature_importance.png", importance, "rise of mean NE (click, like, long_view)")
