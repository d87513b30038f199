"""A user of a language that one post in a hundred is written in, over an inverted index of 110,000 posts."""

from datetime import UTC, datetime

import numpy as np
import pytest

from core.schema import CONTENT_DIM
from models.ann import load_index, write_index
from serving.bootstrap import make_funnel
from serving.funnel.eligible import EligiblePosts, SharedCodes
from serving.funnel.first_stage import VectorRanker
from serving.funnel.request import FeedRequest
from serving.metrics import Metrics
from serving.parts import Parts
from serving.snapshot import Lists, Ragged, Snapshot, Users
from serving.spec_file import load_spec, with_overlay
from serving.vector_search import IndexSearch
from tests.serving_fakes import AS_OF, GREEDY, FakeModel, FakeReader, FakeTower, make_catalogue, ragged

NUM_POSTS = 110_000
RARE, COMMON = 0, 1
RARE_USER, COMMON_USER = 1, 2
RNG = np.random.default_rng(17)


def catalogue_of_few():
    """One post in a hundred in the rare language; content has a direction of its own per language, as towers learn."""
    catalogue = make_catalogue(NUM_POSTS)
    codes = np.where(RNG.random(NUM_POSTS) < 0.01, RARE, RNG.integers(1, 3, NUM_POSTS))
    catalogue.language_codes[:] = codes
    catalogue.content[:] += RNG.standard_normal((3, CONTENT_DIM))[codes] * 0.5
    catalogue.content[:] /= np.linalg.norm(catalogue.content, axis=1, keepdims=True)
    return catalogue


def segment(rows, length):
    return RNG.choice(rows, size=min(length, len(rows)), replace=False).tolist()


def snapshot_of(catalogue):
    """Lists as an off-peak build makes them: a user of a language engages with what they may see."""
    by_language = [np.flatnonzero(catalogue.language_codes == code) for code in range(3)]
    everyone = np.arange(NUM_POSTS)
    neighbours = Ragged(
        np.arange(0, 10 * NUM_POSTS + 1, 10), RNG.integers(0, NUM_POSTS, 10 * NUM_POSTS),
        np.ones(10 * NUM_POSTS, dtype=np.float32),
    )  # fmt: skip
    lists = Lists(
        neighbours, ragged([segment(everyone, 1000)]), ragged([segment(rows, 1000) for rows in by_language]),
        ragged([segment(everyone, 1000)]), ragged([segment(everyone, 1000) for _ in range(3)]),
        ragged([segment(rows, 1000) for rows in by_language]),
    )  # fmt: skip
    users = Users(
        np.array([RARE_USER, COMMON_USER]), np.array([RARE, COMMON], dtype=np.int16), np.zeros(2, dtype=np.int16),
        ragged([by_language[RARE][:20].tolist(), []]), ragged([[], []]), ragged([[], []]), ragged([[7], [7]]),
    )  # fmt: skip
    return Snapshot("s", AS_OF.timestamp(), "d", catalogue, lists, users)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    catalogue = catalogue_of_few()
    manifest = write_index(folder, catalogue.post_ids, catalogue.content, "tower-1", datetime(2026, 1, 1, tzinfo=UTC))
    assert manifest.factory.startswith("IVF")
    search = IndexSearch(load_index(folder / manifest.index_id, "tower-1"), catalogue)
    tower = FakeTower()
    ranker = VectorRanker(tower, catalogue.content, np.ones(NUM_POSTS, dtype=np.bool_))
    parts = Parts(
        FakeReader(catalogue), tower, search, ranker, FakeModel(),
        versions={"retrieval": "tower-1", "first_stage": "tower-1", "second_stage": "model-1"},
    )  # fmt: skip
    return snapshot_of(catalogue), parts


def stages(world, user):
    snapshot, parts = world
    funnel = make_funnel(with_overlay(load_spec(), GREEDY), snapshot, parts, None, Metrics())
    slate = funnel.rank(FeedRequest(user, AS_OF, request_id=1))
    assert slate.degraded == ()
    return slate, {report.name: report for report in slate.stages}


@pytest.mark.parametrize("user", [RARE_USER, COMMON_USER], ids=["rare", "common"])
def test_the_shipped_funnel_ranks_a_thousand_candidates_of_the_users_language(world, user):
    slate, found = stages(world, user)
    assert found["first_stage"].num_in == 1_000
    assert len(slate) == 100
    codes = world[0].catalogue.language_codes[slate.candidates.rows]
    assert set(codes.tolist()) == {RARE if user == RARE_USER else COMMON}
    assert not any("language" in note for note in found["eligibility"].notes)


def test_the_search_finds_the_nearest_thousand_of_a_rare_language(world):
    snapshot, parts = world
    catalogue, none = snapshot.catalogue, np.empty(0, dtype=np.int64)
    is_rare = catalogue.language_codes == RARE
    shared = SharedCodes((~is_rare).astype(np.uint8))
    query = parts.tower.vector
    rows, _ = parts.search.search(query, 1_000, EligiblePosts(shared, none))
    exact = np.argsort(np.where(is_rare, -(catalogue.content @ query), np.inf))[:1_000]
    assert len(set(rows.tolist())) == 1_000
    assert is_rare[rows].all()
    assert len(set(rows.tolist()) & set(exact.tolist())) >= 995  # fp16 in the index decides near ties otherwise
