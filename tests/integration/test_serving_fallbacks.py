"""What a slate is filled and a page is answered with when sources or models give too little."""

from dataclasses import replace

import httpx
import numpy as np

from events.journal import JournalEvent
from serving.funnel.request import FeedRequest
from serving.live.seen import RECENT
from tests.serving_fakes import AS_OF, COLD_USER, FakeModel, make_parts, make_runtime, make_snapshot, make_spec
from tests.serving_server import running


def test_a_slate_is_not_filled_up_with_posts_seen_too_long_ago_to_be_listed(tmp_path):
    """More posts were seen than are kept exactly: the older ones are in Bloom filters alone."""
    sources = {"two_tower": None, "history": None, "popular_language": None, "followed": None, "fresh": None}
    few = {"trending": {"quota": 3}, "popular_country": {"quota": 3}}
    runtime = make_runtime(
        tmp_path, make_spec(sources=sources | few, cold_start=[], eligibility={"min_pool": 0, "language": "any"})
    )
    catalogue = runtime.snapshot.catalogue
    seen = catalogue.by_popularity[: RECENT + 40]
    runtime.journal.append([
        JournalEvent(f"i{post}", "impression", COLD_USER, AS_OF, AS_OF, post_id=post, surface="explore")
        for post in catalogue.post_ids[seen].tolist()
    ])  # fmt: skip
    state = runtime.funnel.state_without_features(FeedRequest(COLD_USER, AS_OF))
    assert state.controls.seen_long_ago is not None
    assert np.count_nonzero(state.eligibility[seen] == 0) > 30  # what only the filters know
    slate = runtime.funnel.rank(FeedRequest(COLD_USER, AS_OF, request_id=3))
    assert any(report.name == "fill_up" for report in slate.stages)
    assert len(slate) > 20
    assert not set(slate.candidates.rows.tolist()) & set(seen.tolist())
    runtime.close()


def test_a_model_that_gives_no_numbers_is_named_and_no_score_of_a_reply_is_null(tmp_path):
    class Broken(FakeModel):
        def probabilities(self, *columns):
            found = super().probabilities(*columns).copy()
            found[3] = np.nan
            return found

    runtime = make_runtime(tmp_path, parts=replace(make_parts(make_snapshot()), second_stage=Broken()))
    with running(runtime) as url:
        page = httpx.get(f"{url}/feed", params={"user_id": "1", "limit": 50, "explain": True}).json()
    assert page["degraded"] == ["second_stage"]
    assert len(page["posts"]) == 50
    assert all(isinstance(post["score"], float) for post in page["posts"])
    assert not any(post["probabilities"] for post in page["posts"])
