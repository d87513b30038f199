"""Feeds without ranking: precomputed slates, popular posts, and who gets which."""

import itertools
import json
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from core.errors import InputError, StoreUnavailableError
from events.journal import JournalEvent
from events.served import ServedLog
from serving.funnel.request import FeedRequest
from serving.precompute import listed_users, most_active, precompute
from serving.precomputed import PrecomputedSlates
from tests.serving_fakes import AS_OF, COLD_USER, FakeModel, make_parts, make_runtime, make_snapshot, make_spec, ragged

SPEC = make_spec(eligibility={"min_pool": 5}, rerank={"slate_size": 40})


class Shop:
    """A runtime with fakes that can be broken, and its feed."""

    def __init__(self, folder, **fields):
        self.model = FakeModel()
        parts = replace(make_parts(make_snapshot()), second_stage=self.model)
        self.runtime = make_runtime(folder, SPEC, parts, **fields)
        self.served = ServedLog(self.runtime.workspace.served)
        ids = itertools.count(1)
        self.feed = self.runtime.open_feed(self.served, lambda: next(ids))

    def page(self, user_id=1, cursor=None, **fields):
        return self.feed.page(FeedRequest(user_id, AS_OF, limit=10), cursor, **fields)

    def close(self):
        self.feed.close()
        self.served.close()
        self.runtime.close()


@pytest.fixture
def shop(tmp_path):
    shop = Shop(tmp_path)
    yield shop
    shop.close()


def ids_of(page):
    return [entry.post.post_id for entry in page.posts]


def test_at_overload_a_chosen_user_gets_the_slate_that_was_ranked_for_them(shop):
    ranked = shop.runtime.funnel.rank(FeedRequest(1, AS_OF, request_id=5))
    report = precompute(shop.runtime, [1, 2])
    assert (report.num_users, report.num_empty) == (2, 0)
    page = shop.page(may_rank=False)
    assert page.degraded == ("precomputed",)
    assert ids_of(page) == ranked.post_ids[:10].tolist()
    assert page.spec_version == SPEC.version
    assert page.model_versions == ranked.model_versions
    first = page.posts[0]
    assert first.post.sources == ranked.sources_of(0)
    assert first.explanation.probabilities["click"] == pytest.approx(ranked.explanation(0).probabilities["click"])
    assert first.explanation.rules == ranked.explanation(0).rules
    assert first.ranked_at == AS_OF


def test_others_get_popular_posts_under_their_own_rules(shop):
    precompute(shop.runtime, [1])
    page = shop.page(user_id=2, may_rank=False)
    assert page.degraded == ("popular",)
    assert page.model_versions == {}
    scores = [entry.post.score for entry in page.posts]
    assert scores == sorted(scores, reverse=True)
    assert not {entry.post.row for entry in page.posts} & {*range(40, 50), 100}
    assert shop.page(user_id=COLD_USER, may_rank=False).posts


def test_a_stored_slate_keeps_to_what_the_user_said_since(shop):
    precompute(shop.runtime, [1])
    hidden = shop.page(may_rank=False).posts[0].post.post_id
    shop.runtime.journal.append([JournalEvent("h", "hide", 1, AS_OF, AS_OF, post_id=hidden)])
    page = shop.page(may_rank=False)
    assert page.degraded == ("precomputed",)
    assert hidden not in ids_of(page)
    assert len(page.posts) == 10


def test_pages_of_the_reserve_never_repeat_and_ranking_takes_over_again(shop):
    precompute(shop.runtime, [1])
    pages, cursor = [], None
    for may_rank in (False, False, True, False):
        pages.append(shop.page(cursor=cursor, may_rank=may_rank))
        cursor = pages[-1].next_cursor
    shown = [post for page in pages for post in ids_of(page)]
    assert len(shown) == len(set(shown)) == 40
    assert [page.degraded for page in pages[:3]] == [("precomputed",), ("precomputed",), ()]
    # What was ranked and is held still serves without ranking.
    assert pages[3].degraded == ()


def test_when_ranking_is_down_the_stored_slate_comes_and_the_fault_is_named(shop):
    precompute(shop.runtime, [1])
    shop.runtime.parts.reader.stored.is_down = True
    assert shop.page().degraded == ("features", "precomputed")
    assert shop.page(user_id=2).degraded == ("features",)
    shop.runtime.parts.reader.stored.is_down = False
    shop.model.is_broken = True
    assert shop.page().degraded == ("second_stage", "precomputed")
    shop.model.is_broken = False
    assert shop.page().degraded == ()


def test_a_stored_slate_expires(shop):
    precompute(shop.runtime, [1])
    shop.runtime.clock.at = AS_OF + timedelta(seconds=SPEC.precompute.max_age_seconds + 1)
    assert shop.page(may_rank=False).degraded == ("popular",)


def test_a_run_on_a_fault_replaces_nothing(shop):
    folder = precompute(shop.runtime, [1]).folder
    shop.model.is_broken = True
    with pytest.raises(StoreUnavailableError, match="second_stage"):
        precompute(shop.runtime, [1, 2])
    assert folder.exists()
    assert shop.page(may_rank=False).degraded == ("precomputed",)


def test_newer_slates_are_found_and_damaged_ones_leave_what_was_there(shop):
    root = shop.runtime.workspace.precomputed
    precompute(shop.runtime, [1])
    stored = PrecomputedSlates(root, 60)
    assert stored.find(1, "explore", AS_OF.timestamp()) is not None
    assert stored.find(1, "home", AS_OF.timestamp()) is None
    precompute(shop.runtime, [2, 3])
    assert len([path for path in root.iterdir() if path.is_dir()]) == 1
    stored._looked_at = -np.inf
    assert stored.find(1, "explore", AS_OF.timestamp()) is None
    assert stored.find(3, "explore", AS_OF.timestamp()) is not None
    (root / "current.json").write_text(json.dumps({"folder": "half"}))
    (root / "half").mkdir()
    (root / "half" / "about.json").write_text('{"surface": "expl')
    stored._looked_at = -np.inf
    assert stored.find(3, "explore", AS_OF.timestamp()) is not None
    assert PrecomputedSlates(root, 60).find(3, "explore", AS_OF.timestamp()) is None


def test_users_are_chosen_by_activity_or_named_and_bounded(shop, tmp_path):
    users = shop.runtime.snapshot.base.users
    seen = replace_seen(users, [1] * 10 + [9] * 5 + [2] * (len(users.user_ids) - 15))
    assert most_active(seen, 5) == [10, 11, 12, 13, 14]
    listed = tmp_path / "users.txt"
    listed.write_text("3\n\n 1\n3\n")
    assert listed_users(listed) == [3, 1]
    listed.write_text("\n")
    with pytest.raises(InputError, match="one id per line"):
        listed_users(listed)
    with pytest.raises(InputError, match="max_users"):
        precompute(shop.runtime, list(range(SPEC.precompute.max_users + 1)))


def replace_seen(users, lengths):
    return replace(users, seen=ragged([[0] * n for n in lengths]))
