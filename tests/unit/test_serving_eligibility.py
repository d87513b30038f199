from dataclasses import replace

import numpy as np

from serving.funnel.eligibility import REASONS, Eligibility
from serving.funnel.state import Controls
from serving.spec_ranking import EligibilitySpec
from tests.serving_fakes import AS_OF, make_catalogue

CATALOGUE = make_catalogue()
NONE = np.empty(0, dtype=np.int64)
NOW = AS_OF.timestamp()


def codes_of(spec=None, language=1, country=-1, at=NOW, exclude=NONE, **controls):
    rules = Eligibility(spec or EligibilitySpec(min_pool=1), CATALOGUE)
    given = replace(Controls(NONE, NONE), **controls)
    verdict = rules.judge(language, country, given, exclude, at)
    assert np.array_equal(verdict.eligible.mask(), verdict.codes == 0)
    assert verdict.eligible.count == np.count_nonzero(verdict.codes == 0)
    return verdict.codes, verdict.yielded


def reasons(codes, rows):
    return {REASONS[code] for code in codes[rows].tolist()}


def test_each_rule_gives_its_reason():
    mine = np.flatnonzero(CATALOGUE.language_codes == 1)
    mine = mine[mine >= 20]
    blocked = next(int(c) for c in CATALOGUE.creator_ids[mine[5:]] if c not in CATALOGUE.creator_ids[mine[:5]])
    codes, yielded = codes_of(
        seen_rows=mine[:1], hidden_rows=mine[1:2], blocked_creator_ids=frozenset({blocked}), exclude=mine[4:5]
    )
    assert yielded == ()
    assert reasons(codes, mine[:1]) == {"seen"}
    assert reasons(codes, mine[1:2]) == {"hidden"}
    assert reasons(codes, np.flatnonzero(CATALOGUE.creator_ids == blocked)) == {"blocked_creator"}
    assert reasons(codes, mine[4:5]) == {"already_served"}
    assert reasons(codes, np.arange(5)) == {"not_recommendable"}
    assert reasons(codes, np.arange(5, 10)) == {"low_integrity"}
    assert reasons(codes, np.flatnonzero(CATALOGUE.language_codes == 2)[20:]) >= {"other_language"}


def test_eligible_posts_are_in_the_users_language_or_in_none():
    languages = CATALOGUE.language_codes.copy()
    languages[50:60] = -1
    rules = Eligibility(EligibilitySpec(min_pool=1), replace(CATALOGUE, language_codes=languages))
    codes = rules.judge(1, -1, Controls(NONE, NONE), NONE, NOW).codes
    assert set(languages[codes == 0].tolist()) == {1, -1}


def test_unknown_language_of_the_user_lets_every_language_through():
    codes, _ = codes_of(language=-1)
    assert set(CATALOGUE.language_codes[codes == 0].tolist()) == {0, 1, 2}


def test_country_yields_before_language_and_language_before_an_empty_feed():
    spec = EligibilitySpec(country="match", min_pool=100)
    codes, yielded = codes_of(spec, language=1, country=0)
    assert yielded == ()
    assert set(CATALOGUE.country_codes[codes == 0].tolist()) == {0}
    codes, yielded = codes_of(spec, language=2, country=0)
    assert yielded == ("country",)
    assert set(CATALOGUE.language_codes[codes == 0].tolist()) == {2}
    codes, yielded = codes_of(spec, language=0, country=0)
    assert yielded == ("country", "language")


def test_posts_too_old_or_not_yet_published_are_out():
    codes, _ = codes_of(EligibilitySpec(max_age_days=5, min_pool=1))
    ages = (NOW - CATALOGUE.created_at) / 86_400
    assert ages[codes == 0].max() <= 5
    codes, _ = codes_of(at=NOW - 10 * 86_400)
    assert CATALOGUE.created_at[codes == 0].max() <= NOW - 10 * 86_400 + 3600


def test_one_users_controls_do_not_reach_the_next_user():
    rules = Eligibility(EligibilitySpec(min_pool=1), CATALOGUE)
    first = rules.judge(1, -1, Controls(np.arange(300), NONE), NONE, NOW).codes
    second = rules.judge(1, -1, Controls(NONE, NONE), NONE, NOW).codes
    assert (second == 0).sum() > (first == 0).sum()


def test_muted_topics_are_out():
    codes, _ = codes_of(muted_topic_ids=frozenset({4}))
    assert 4 not in set(CATALOGUE.topic_ids[codes == 0].tolist())
