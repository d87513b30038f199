import json

import pytest

from models.features import Feature, FeatureSpec
from models.inputs import embedding_pairs, plain_embeddings
from tests.planted_examples import examples, features, spec_of


def test_json_round_trip():
    spec = spec_of(examples(200, 0, True))
    assert FeatureSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert FeatureSpec.from_json(json.dumps(spec.to_json())) == spec


def test_json_with_an_unknown_field_is_refused():
    with pytest.raises(ValueError, match="colour"):
        FeatureSpec.from_json([{"name": "a", "side": "user", "kind": "numeric", "colour": 1}])


def test_columns_by_side():
    spec = FeatureSpec(tuple(features()))
    assert spec.columns("cross") == ("cross__match",)
    assert "post__age" in spec.columns("post")
    assert len(sum((spec.columns(side) for side in ("user", "post", "cross")), ())) == len(features())


def test_tables_are_shared_by_name():
    tables = {t.name: t for t in FeatureSpec(tuple(features())).tables}
    assert tables["post"].features == ("history__post_ids", "post__post_id")


def test_features_that_disagree_about_their_table_are_refused():
    one = Feature("a", "user", "categorical", table="t", num_rows=10, dim=4)
    other = Feature("b", "post", "categorical", table="t", num_rows=11, dim=4)
    with pytest.raises(ValueError, match="b wants table t as 11 x 4, a as 10 x 4"):
        FeatureSpec((one, other))


def test_a_name_twice_is_refused():
    with pytest.raises(ValueError, match="named twice: a"):
        FeatureSpec((Feature("a", "user", "numeric"), Feature("a", "post", "numeric")))


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "number"},
        {"side": "creator"},
        {"kind": "categorical"},
        {"kind": "categorical", "table": "a.b", "num_rows": 9, "dim": 2},
        {"kind": "embedding"},
        {"transform": "sqrt"},
    ],
)
def test_a_senseless_feature_is_refused_by_name(fields):
    with pytest.raises(ValueError, match="feature f"):
        Feature(**({"name": "f", "side": "user", "kind": "numeric"} | fields))


def test_cut_shortens_sequences_only():
    spec = FeatureSpec(tuple(features())).cut(2)
    lengths = {f.name: f.length for f in spec.features}
    assert lengths["history__post_ids"] == 2
    assert lengths["user__codes"] == 3


def test_embeddings_of_a_group_pair_each_of_the_users_with_the_posts():
    rows = [
        ("a", "user", 2, ""),
        ("b", "user", 3, "g"),
        ("c", "user", 3, "g"),
        ("d", "post", 4, ""),
        ("e", "post", 3, "g"),
    ]
    spec = FeatureSpec(tuple(Feature(n, side, "embedding", dim=d, group=g) for n, side, d, g in rows))
    assert embedding_pairs(spec) == [(slice(2, 5), slice(4, 7)), (slice(5, 8), slice(4, 7))]
    assert plain_embeddings(spec, "user") == [slice(0, 2)]
    assert plain_embeddings(spec, "post") == [slice(0, 4)]


@pytest.mark.parametrize("post", [("user", 3), ("post", 4)])
def test_a_group_without_a_post_of_its_width_is_refused(post):
    other = Feature("e", post[0], "embedding", dim=post[1], group="g")
    with pytest.raises(ValueError, match="embedding group g"):
        embedding_pairs(FeatureSpec((Feature("b", "user", "embedding", dim=3, group="g"), other)))
