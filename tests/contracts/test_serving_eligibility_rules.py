"""Eligibility under every setting: one reason per post, nothing kept from the request before."""

import itertools
from dataclasses import fields, replace

import numpy as np
import pytest

from serving.funnel.eligibility import REASONS, Eligibility
from serving.funnel.state import Controls
from serving.spec_ranking import EligibilitySpec
from tests.serving_fakes import AS_OF, make_catalogue

CATALOGUE = make_catalogue()
NONE = np.empty(0, dtype=np.int64)
NOW = AS_OF.timestamp()
SPECS = [
    EligibilitySpec(language=language, country=country, min_pool=min_pool)
    for language, country, min_pool in itertools.product(("match", "any"), ("match", "any"), (0, 10_000))
]
CONTROLS = Controls(
    seen_rows=np.arange(20, 30), hidden_rows=np.array([31]), blocked_creator_ids=frozenset({3}),
    muted_topic_ids=frozenset({4}),
)  # fmt: skip


@pytest.fixture(params=SPECS, ids=lambda spec: f"{spec.language}-{spec.country}-{spec.min_pool}")
def rules(request):
    return Eligibility(request.param, CATALOGUE)


def test_every_post_has_one_known_reason(rules):
    verdict = rules.judge(1, 0, CONTROLS, np.array([40]), NOW)
    codes, yielded = verdict.codes, verdict.yielded
    assert codes.shape == (len(CATALOGUE),)
    assert codes.dtype == np.uint8
    assert codes.max() < len(REASONS)
    assert set(yielded) <= {"country", "language"}


def test_wishes_of_the_user_count_whatever_yields(rules):
    codes = rules.judge(1, 0, CONTROLS, np.array([40]), NOW).codes
    barred = [CONTROLS.seen_rows, CONTROLS.hidden_rows, CATALOGUE.creator_rows(3), np.array([40])]
    barred.append(np.flatnonzero(CATALOGUE.topic_ids == 4))
    assert np.all(codes[np.concatenate(barred)] != 0)
    assert np.all(codes[:10] != 0)  # not recommendable and of low integrity


def test_nothing_of_one_request_stays_for_the_next(rules):
    fresh = rules.judge(1, 0, Controls(NONE, NONE), NONE, NOW).codes
    rules.judge(1, 0, CONTROLS, np.arange(100), NOW)
    again = rules.judge(1, 0, Controls(NONE, NONE), NONE, NOW).codes
    assert np.array_equal(fresh, again)
    fresh[:] = 9
    assert np.array_equal(rules.judge(1, 0, Controls(NONE, NONE), NONE, NOW).codes, again)


def test_a_preference_lets_no_more_through_than_none(rules):
    verdict = rules.judge(1, 0, CONTROLS, NONE, NOW)
    matched, yielded = verdict.codes, verdict.yielded
    anybody = rules.judge(-1, -1, CONTROLS, NONE, NOW).codes
    if not yielded:
        assert np.all(anybody[matched == 0] == 0)
    assert (matched == 0).sum() <= (anybody == 0).sum()


def test_an_empty_catalogue_is_an_empty_answer():
    arrays = {
        f.name: getattr(CATALOGUE, f.name)[:0] for f in fields(CATALOGUE)
        if isinstance(getattr(CATALOGUE, f.name), np.ndarray)
    }  # fmt: skip
    rules = Eligibility(EligibilitySpec(), replace(CATALOGUE, **arrays))
    assert len(rules.judge(1, 0, Controls(NONE, NONE), NONE, NOW).codes) == 0
