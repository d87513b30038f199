"""Pages of a visit: cursors, repeats, restarts, and what a page leaves behind."""

import itertools
import os
import stat

import pytest

from core.errors import ConfigError
from events.journal import JournalEvent
from events.served import ServedLog
from serving.bootstrap import build_runtime
from serving.cursor import CursorError, load_secret
from serving.funnel.request import FeedRequest
from tests.serving_fakes import (
    AS_OF,
    COLD_USER,
    NUM_POSTS,
    make_catalogue,
    make_parts,
    make_runtime,
    make_snapshot,
    make_spec,
)

SMALL = {"eligibility": {"min_pool": 0}, "rerank": {"slate_size": 30}}


class Desk:
    """A runtime with an open feed, and the means to restart it."""

    def __init__(self, folder, first_id=1, num_posts=NUM_POSTS, prefetch=False, **overlay):
        self.folder = folder
        self.ids = itertools.count(first_id)
        self.snapshot = make_snapshot(make_catalogue(num_posts))
        self.spec = make_spec(**SMALL, paging={"prefetch": prefetch}, **overlay)
        self.open()

    def open(self):
        self.runtime = make_runtime(self.folder, self.spec, make_parts(self.snapshot), snapshot=self.snapshot)
        self.served = ServedLog(self.runtime.workspace.served)
        self.feed = self.runtime.open_feed(self.served, lambda: next(self.ids))

    def close(self):
        self.feed.close()
        self.served.close()
        self.runtime.close()

    def page(self, cursor=None, user_id=1, limit=10, **fields):
        return self.feed.page(FeedRequest(user_id, AS_OF, limit=limit, **fields), cursor)


@pytest.fixture
def desk(tmp_path):
    desk = Desk(tmp_path)
    yield desk
    desk.close()


def ids_of(page):
    return [entry.post.post_id for entry in page.posts]


def scroll(desk, limit=10, user_id=1):
    pages, cursor = [], None
    while True:
        page = desk.page(cursor, user_id=user_id, limit=limit)
        pages.append(page)
        if page.next_cursor is None:
            return pages
        cursor = page.next_cursor


def test_scrolling_to_the_end_shows_every_eligible_post_once(desk):
    pages = scroll(desk, limit=17)
    shown = [post_id for page in pages for post_id in ids_of(page)]
    assert len(shown) == len(set(shown))
    state = desk.runtime.funnel._open(FeedRequest(1, AS_OF))
    eligible = desk.runtime.snapshot.catalogue.post_ids[state.eligibility == 0]
    assert sorted(shown) == eligible.tolist()
    positions = [entry.post.position for page in pages for entry in page.posts]
    assert positions == list(range(len(shown)))


@pytest.mark.parametrize(
    ("user_id", "given", "logged"),
    [
        (1, {}, ("US", "en")),  # nothing said: the user's own words rank and are kept
        (1, {"country": "ES", "language": "es"}, ("ES", "es")),
        (COLD_USER, {}, (None, None)),
    ],
)
def test_pages_keep_the_words_that_the_models_were_fed(desk, user_id, given, logged):
    wish = FeedRequest(user_id, AS_OF, **given)
    page = desk.served.page(desk.page(user_id=user_id, **given).request_id)
    assert (page.country, page.language) == logged
    fed = desk.runtime.funnel._open(wish).user
    assert (fed["request__country"][0], fed["request__language"][0]) == tuple(word or "" for word in logged)


def test_the_creator_rule_holds_across_pages_and_reruns(desk):
    creators = [entry.post.creator_id for page in scroll(desk)[:9] for entry in page.posts]
    assert all(creators[i] not in creators[max(0, i - 2) : i] for i in range(len(creators)))


def test_the_same_cursor_gives_the_same_page(desk):
    first = desk.page()
    again = [ids_of(desk.page(first.next_cursor)) for _ in range(3)]
    assert again[0] == again[1] == again[2]
    assert not set(again[0]) & set(ids_of(first))


def test_a_cached_page_runs_no_funnel_and_keeps_its_ranking_time(desk):
    first = desk.page()
    reads = dict(desk.runtime.parts.reader.stored.num_reads)
    second = desk.page(first.next_cursor)
    assert desk.runtime.parts.reader.stored.num_reads == reads
    assert second.posts[0].ranked_at == first.posts[0].ranked_at
    assert second.request_id != first.request_id


def test_a_hide_between_pages_leaves_the_cached_page_too(desk):
    first = desk.page()
    planned = desk.page(first.next_cursor).posts[0].post
    desk.runtime.journal.append([JournalEvent("h", "hide", 1, AS_OF, AS_OF, post_id=planned.post_id)])
    assert planned.post_id not in ids_of(desk.page(first.next_cursor))


def test_a_block_between_pages_leaves_the_cached_page_too(desk):
    first = desk.page()
    planned = desk.page(first.next_cursor).posts[0].post
    desk.runtime.journal.append([JournalEvent("b", "block", 1, AS_OF, AS_OF, creator_id=planned.creator_id)])
    page = desk.page(first.next_cursor)
    assert planned.creator_id not in [entry.post.creator_id for entry in page.posts]
    assert len(page.posts) == 10


def test_a_restarted_server_goes_on_without_repeats(desk):
    first = desk.page()
    second = desk.page(first.next_cursor)
    desk.close()
    desk.open()
    third = desk.page(second.next_cursor)
    assert len(third.posts) == 10
    assert not set(ids_of(third)) & {*ids_of(first), *ids_of(second)}
    assert third.posts[0].post.position == 20


def test_a_cursor_is_worth_nothing_to_others(desk):
    cursor = desk.page().next_cursor
    with pytest.raises(CursorError):
        desk.page(cursor, user_id=2)
    with pytest.raises(CursorError):
        desk.page(cursor, surface="tab_1")
    with pytest.raises(CursorError):
        desk.page(cursor[:-2])
    with pytest.raises(CursorError):
        desk.page("ünsinn")


def test_pages_are_logged_with_what_events_need(desk):
    page = desk.page(country="US", device="web")
    kept = desk.served.page(page.request_id)
    assert kept.post_ids == tuple(ids_of(page))
    assert kept.positions == tuple(range(10))
    assert kept.sources == tuple(entry.post.sources for entry in page.posts)
    assert kept.propensities == (1.0,) * 10
    assert kept.ranked_at == (AS_OF,) * 10
    assert kept.requested_at == AS_OF
    assert (kept.country, kept.device, kept.spec_version) == ("US", "web", desk.runtime.spec.version)
    assert kept.model_versions == "first_stage=tower-1,retrieval=tower-1,second_stage=model-1"
    assert desk.feed.explanations.find(page.request_id)["posts"][0]["probabilities"]["click"] > 0
    assert desk.served.page(10**9) is None


def test_old_pages_are_pruned(desk):
    from datetime import timedelta

    page = desk.page()
    assert desk.served.prune(AS_OF + timedelta(days=14)) == 0
    assert desk.served.prune(AS_OF + timedelta(days=16)) == 1
    assert desk.served.page(page.request_id) is None


def test_the_secret_is_private_and_stays(tmp_path):
    path = tmp_path / "cursor.secret"
    secret = load_secret(path)
    assert load_secret(path) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["cursor.secret"]
    os.chmod(path, 0o644)  # noqa: PTH101
    with pytest.raises(ConfigError, match="chmod 600"):
        load_secret(path)


def test_serving_without_a_snapshot_says_which_command_makes_it(tmp_path):
    from core.errors import MissingStageError
    from tests.serving_fakes import make_settings

    with pytest.raises(MissingStageError, match="python -m serving snapshot"):
        build_runtime(make_settings(tmp_path))


def test_a_visit_goes_a_thousand_posts_deep_without_a_repeat_while_the_catalogue_is_reranked(tmp_path):
    desk = Desk(tmp_path, num_posts=4_000, prefetch=True)
    shown, cursor, rankings = [], None, set()
    while len(shown) < 1_000:
        page = desk.page(cursor, user_id=1, limit=50)
        shown += ids_of(page)
        rankings |= {entry.slate.request_id for entry in page.posts}
        assert [entry.post.position for entry in page.posts] == list(range(len(shown) - 50, len(shown)))
        cursor = page.next_cursor
    assert len(set(shown)) == len(shown)
    assert len(rankings) >= 30
    desk.close()


def test_the_next_page_is_ranked_before_it_is_asked_for(tmp_path):
    desk = Desk(tmp_path, prefetch=True)
    first = desk.page(limit=25)  # 5 of the 30 ranked posts are left
    settle(desk)
    reads = dict(desk.runtime.parts.reader.stored.num_reads)
    second = desk.page(first.next_cursor, limit=25)
    assert len(second.posts) == 25
    assert not set(ids_of(first)) & set(ids_of(second))
    assert {entry.slate.request_id for entry in second.posts[5:]} != {first.request_id}
    settle(desk)
    after = dict(desk.runtime.parts.reader.stored.num_reads)
    assert after["user"] == reads["user"] + 1  # the prefetch behind the second page, nothing for the page itself
    assert desk.runtime.metrics.caches["slates"].num_hits == 1
    desk.close()


def settle(desk):
    """Waits for the background: one thread runs the jobs in order."""
    import threading

    done = threading.Event()
    desk.feed._stores.prefetcher.submit(done.set)
    assert done.wait(10)


def test_two_processes_serve_one_visit_without_repeats(tmp_path):
    desk, other = Desk(tmp_path), Desk(tmp_path, first_id=10**6)
    shown, cursor = [], None
    for server in (desk, other, desk, desk, other, desk):
        page = server.page(cursor)
        shown += ids_of(page)
        cursor = page.next_cursor
    assert len(shown) == len(set(shown)) == 60
    desk.close()
    other.close()


def test_a_cursor_expires_by_the_wall(desk, monkeypatch):
    from datetime import UTC, datetime, timedelta

    class Later:
        def now(self):
            return datetime.now(UTC) + timedelta(hours=25)

    cursor = desk.page().next_cursor
    desk.page(cursor)
    monkeypatch.setattr(desk.feed._signer, "_clock", Later())
    with pytest.raises(CursorError, match="expired"):
        desk.page(cursor)


def test_cursors_are_signed_with_the_key_that_is_set(tmp_path):
    from pydantic import SecretStr

    from serving.cursor import cursor_secret
    from tests.serving_fakes import make_settings

    key = "k" * 32
    assert cursor_secret(make_settings(tmp_path, cursor_key=SecretStr(key))) == key.encode()
    with pytest.raises(ConfigError, match="32"):
        cursor_secret(make_settings(tmp_path, cursor_key=SecretStr("short")))
    assert len(cursor_secret(make_settings(tmp_path))) == 32


def test_a_cached_page_keeps_the_propensities_of_its_ranking(tmp_path):
    desk = Desk(tmp_path, exploration={"temperature": 0.5, "probability": 0.2})
    first = desk.page()
    second = desk.page(first.next_cursor)
    slate = second.posts[0].slate
    assert [entry.slate.request_id for entry in (*first.posts, *second.posts)] == [first.request_id] * 20
    assert slate.propensities[:10].tolist() == [entry.post.propensity for entry in first.posts]
    kept = desk.served.page(second.request_id)
    assert kept.propensities == tuple(slate.propensities[10:20].tolist())
    assert max(kept.propensities) < 1
    explained = desk.feed.explanations.find(second.request_id)
    assert [post["propensity"] for post in explained["posts"]] == list(kept.propensities)
    desk.close()


def test_a_page_is_explained_down_to_its_stages_and_after_a_restart(desk):
    first = desk.page()
    second = desk.page(first.next_cursor)
    desk.close()
    desk.open()
    explained = desk.feed.explanations.find(second.request_id)
    assert explained["spec_version"] == desk.runtime.spec.version
    (ranking,) = explained["rankings"]
    stages = {stage["name"]: stage for stage in ranking["stages"]}
    assert {"user", "source.two_tower", "eligibility", "retrieval", "first_stage", "second_stage", "rerank"} <= set(
        stages
    )
    assert stages["eligibility"]["removed"]["other_language"] > 0
    assert stages["first_stage"]["num_in"] > stages["first_stage"]["num_out"]
    post = explained["posts"][3]
    assert (post["position"], post["place"]) == (13, 13)
    assert {"blend", "first_stage", "value"} <= set(post["stage_scores"])
    assert sum(post["value_contributions"].values()) == pytest.approx(post["stage_scores"]["value"], rel=1e-4)


def test_a_page_never_mixes_versions(desk):
    from dataclasses import replace

    first = desk.page(limit=20)
    visit = next(iter(desk.feed._visits._visits.values()))
    visit.complete()
    old = visit.entries[20][0]
    new = replace(old, model_versions={"second_stage": "model-2"})
    visit.entries[25:] = [(new, place) for _, place in visit.entries[25:]]
    second = desk.page(first.next_cursor, limit=20)
    assert len(second.posts) == 5
    assert second.model_versions == old.model_versions
    third = desk.page(second.next_cursor, limit=5)
    assert third.model_versions == {"second_stage": "model-2"}
    assert third.posts[0].post.position == 25


def test_a_muted_topic_leaves_the_held_page_and_the_next_ranking_until_it_is_unmuted(desk):
    topics = desk.runtime.snapshot.catalogue.topic_ids
    first = desk.page()
    muted = next(entry for entry in first.posts if topics[entry.post.row] >= 0).post
    topic = topics[muted.row]
    desk.runtime.journal.append([JournalEvent("m", "mute_topic", 1, AS_OF, AS_OF, post_id=muted.post_id)])
    for page in (desk.page(first.next_cursor), desk.page()):
        assert topic not in topics[[entry.post.row for entry in page.posts]]
    other = next(i for i, t in enumerate(topics) if t == topic and i != muted.row)
    unmute = JournalEvent("u", "unmute_topic", 1, AS_OF, AS_OF, post_id=2 * other + 1)
    desk.runtime.journal.append([unmute])
    assert topic in topics[[entry.post.row for entry in desk.page(limit=30).posts]]
