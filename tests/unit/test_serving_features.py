"""Encoded posts: what the second stage reads of posts, kept between requests."""

import numpy as np
import pytest

from core.settings import Settings
from feature_repo.catalog import ENTITY_VIEWS
from feature_repo.crosses import POST_COLUMNS, cross_features
from models.bundle import load_bundle
from serving.funnel.features import FunnelFeatures
from serving.funnel.input_bounds import InputBounds
from serving.spec_limits import CachesSpec
from tests.served_world import publish_model
from tests.serving_fakes import AS_OF, FakeReader, make_catalogue

NOW = AS_OF.timestamp()
ROWS = np.array([30, 4, 4, 17, 299])
CACHES = CachesSpec.model_validate(
    {
        "post_features": {"max_entries": 1000, "max_age_seconds": 300},
        "creator_features": {"max_entries": 1000, "max_age_seconds": 100},
    }
)


def encode(columns):
    return {"topic": columns["post_profile__topic_id"], "reads": columns["creator_activity__num_posts"]}


class ChangingReader(FakeReader):
    """A creator's number of posts is how often creators were read."""

    def read(self, entity, ids, views):
        columns = super().read(entity, ids, views)
        if entity == "creator":
            columns["creator_activity__num_posts"] = np.full(len(ids), float(self.num_reads["creator"]))
        return columns


@pytest.fixture
def features():
    catalogue = make_catalogue()
    names = ("creator_activity__num_posts",)
    return FunnelFeatures(ChangingReader(catalogue), catalogue, CACHES, names, InputBounds({}, lambda *_: None), encode)


def test_encoded_posts_are_those_of_the_rows_and_are_read_once(features):
    first, again = features.encoded_posts(ROWS, NOW), features.encoded_posts(ROWS, NOW + 10)
    raw = features.post_columns(ROWS, NOW)
    assert first["topic"].tolist() == again["topic"].tolist() == raw["post_profile__topic_id"].tolist()
    assert set(first["reads"]) == set(again["reads"]) == {1.0}
    assert all(np.array_equal(first[name], raw[name]) for name in POST_COLUMNS)
    assert (features.post_counts.num_asked, features.post_counts.num_hits) == (8, 4)


def test_what_is_encoded_is_no_older_than_the_creators_features_may_be(features):
    features.post_columns(ROWS[:1], NOW)  # the creator is read now, the encoded post is made of it later
    assert features.encoded_posts(ROWS[:1], NOW + 90)["reads"].tolist() == [1.0]
    assert features.encoded_posts(ROWS[:1], NOW + 99)["reads"].tolist() == [1.0]
    assert features.encoded_posts(ROWS[:1], NOW + 310)["reads"].tolist() == [2.0]


def test_a_dropped_post_is_read_again(features):
    features.encoded_posts(ROWS, NOW)
    reads = features._reader.num_reads["post"]
    features.drop_posts(features._catalogue.post_ids[ROWS[:1]])
    features.encoded_posts(ROWS, NOW)
    assert features._reader.num_reads["post"] == reads + 1
    assert features.post_counts.num_hits == 3


def test_without_an_encoder_there_is_nothing_to_encode_with():
    catalogue = make_catalogue()
    plain = FunnelFeatures(FakeReader(catalogue), catalogue, CACHES, (), InputBounds({}, lambda *_: None))
    with pytest.raises(ValueError, match="encode_posts was not given"):
        plain.encoded_posts(ROWS, NOW)


def test_a_bundle_ranks_encoded_posts_as_it_ranks_their_columns(tmp_path):
    settings = Settings(var_dir=tmp_path, dataset="world")
    bundle = load_bundle(settings.workspace.bundles / "second_stage" / publish_model(settings, "second_stage"))
    catalogue = make_catalogue()
    reader = FakeReader(catalogue)
    user = reader.read("user", np.array([5]), ENTITY_VIEWS["user"])
    posts = reader.read("post", catalogue.post_ids[ROWS], ENTITY_VIEWS["post"])
    crosses = cross_features(user, posts, NOW)
    few = cross_features(user, {name: posts[name] for name in POST_COLUMNS}, NOW)
    assert all(np.array_equal(crosses[name], few[name], equal_nan=True) for name in crosses)
    encoded = bundle.encoded_posts(posts)
    assert all(len(values) == len(ROWS) for values in encoded.values())
    np.testing.assert_array_equal(
        bundle.probabilities_of(user, encoded, few), bundle.probabilities(user, posts, crosses)
    )
