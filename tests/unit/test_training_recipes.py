"""Recipes: complete, named by the catalogue, tables sized by the data."""

import numpy as np
import pytest

from core.errors import ConfigError
from feature_repo.catalog import FIELDS
from models.features import FeatureSpec
from training import recipes
from training.recipe_features import MIN_TABLE_ROWS, recipe_columns, table_rows
from training.recipes import RECIPES

COLUMNS = {name: np.array([[0, 5, -1]]) for name in recipe_columns(has_crosses=True)}


@pytest.mark.parametrize("build", [recipes.retrieval, recipes.first_stage, recipes.second_stage])
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_reads_declared_features_and_makes_a_spec(build, name: str) -> None:
    recipe = build(COLUMNS, name)
    spec = FeatureSpec(recipe.features)
    for feature in recipe.features:
        assert feature.column in FIELDS or feature.column.startswith("request__")
        if feature.kind in ("sequence", "codes") or (feature.kind == "embedding"):
            assert FIELDS[feature.name].length >= (feature.dim if feature.kind == "embedding" else feature.length)
    assert bool(spec.side("cross")) is (recipe.kind == "second_stage")
    stored = set(recipe_columns(has_crosses=recipe.kind == "second_stage"))
    assert {f.column for f in recipe.features if not f.column.startswith("request__")} <= stored


def test_the_reference_recipe_is_what_it_says() -> None:
    recipe = recipes.second_stage(COLUMNS, "reference")
    loop = recipe.run.loop
    assert (loop.learning_rate, loop.decay, loop.schedule) == (0.1, 0.9, "exponential")
    assert (loop.batch_size, loop.max_epochs) == (128, 100)
    assert recipe.row_weights == "balanced"


def test_a_small_set_is_learned_in_small_batches() -> None:
    large = COLUMNS | {"post_profile__post_key": np.zeros(recipes.SMALL_SET_ROWS, dtype=np.int64)}
    assert recipes.second_stage(COLUMNS).run.loop.batch_size < recipes.second_stage(large).run.loop.batch_size


@pytest.mark.parametrize(("rows_per_post", "is_learned"), [(recipes.ROWS_PER_POST, True), (1, False)])
def test_a_post_gets_a_vector_of_its_own_where_it_is_seen_often_enough(rows_per_post: int, is_learned: bool) -> None:
    columns = COLUMNS | {"post_profile__post_key": np.repeat(np.arange(7), rows_per_post)}
    features = recipes.second_stage(columns).features
    names = {f.name for f in features}
    sizes = {f.num_rows for f in features if f.table == "post"}
    assert len(sizes) == is_learned  # one table, one size
    assert ("post_profile__post_key" in names) is is_learned
    assert ("user_history__history_post_ids" in names) is is_learned


def test_an_unknown_recipe_is_refused_with_the_choices() -> None:
    with pytest.raises(ConfigError, match="choose one of default, semantic, reference"):
        recipes.second_stage(COLUMNS, "best")


def test_the_config_holds_every_decision_as_plain_values() -> None:
    import json

    config = recipes.retrieval(COLUMNS, seed=3).config()
    text = json.dumps(config)
    assert '"seed": 3' in text
    assert "learning_rate" in text
    assert len(config["features"]) == len(recipes.retrieval(COLUMNS).features)


@pytest.mark.parametrize(
    ("ids", "low", "high"),
    [
        (np.arange(1_000), 1_001, 1_200),  # dense: a row each, and room
        (np.array([-1, -1]), MIN_TABLE_ROWS, MIN_TABLE_ROWS),
        (np.arange(1_000) * 7_000_003, 2_000, 2_400),  # sparse: hashed into twice as many
    ],
)
def test_tables_are_sized_by_their_ids(ids: np.ndarray, low: int, high: int) -> None:
    assert low <= table_rows(ids) <= high
