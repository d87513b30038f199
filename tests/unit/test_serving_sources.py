from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from serving.funnel.sources.base import first_eligible
from serving.funnel.sources.newest import FreshSource
from serving.spec_sources import FreshSpec
from tests.serving_fakes import AS_OF, make_catalogue


def state_of(is_eligible):
    return SimpleNamespace(is_eligible=lambda rows: is_eligible[rows], at_seconds=AS_OF.timestamp())


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("quota", [1, 3, 40])
def test_first_eligible_looks_as_far_as_it_must_and_no_further(share, quota):
    rng = np.random.default_rng(3)
    rows, is_eligible = rng.permutation(2_000), rng.random(2_000) < share
    scores = -np.arange(2_000.0)
    found = first_eligible(rows, scores, state_of(is_eligible), quota)
    eligible = [row for row in rows.tolist() if is_eligible[row]][:quota]
    assert found.rows.tolist() == eligible
    last = rows.tolist().index(eligible[-1]) if len(eligible) == quota else len(rows)
    assert found.ineligible.tolist() == [row for row in rows[:last].tolist() if not is_eligible[row]]


def test_fresh_posts_are_those_young_enough_at_the_instant_of_the_request():
    catalogue = make_catalogue()
    ages = (AS_OF.timestamp() - catalogue.created_at) / 3600
    catalogue = replace(catalogue, num_impressions=np.zeros(len(catalogue), dtype=np.int64))
    for hours in (1, 48, 240, 8760):
        spec = FreshSpec(kind="fresh", quota=10_000, max_age_hours=hours, max_impressions=5)
        found = FreshSource(spec, catalogue).find(state_of(np.ones(len(catalogue), dtype=np.bool_)))
        assert sorted(found.rows.tolist()) == np.flatnonzero(ages <= hours).tolist()
        assert np.all(np.diff(found.scores) <= 0)
        np.testing.assert_allclose(found.scores, -ages[found.rows] * 3600)
