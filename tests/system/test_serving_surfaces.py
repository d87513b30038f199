"""Several surfaces behind one service, with deadlines that count."""

import httpx
import pytest

from serving.funnel.source_pool import SourcePool
from tests.serving_fakes import make_runtime, make_spec
from tests.serving_server import running

PATIENT = {
    "deadlines": {"request_ms": 60_000, "user_ms": 9_000, "retrieval_ms": 10_000, "second_stage_ms": 9_000},
    "sources": {"two_tower": {"deadline_ms": 10_000}},
}


@pytest.fixture(scope="module")
def http(tmp_path_factory):
    specs = [make_spec(surface=name, eligibility={"min_pool": 5}, **PATIENT) for name in ("explore", "reels")]
    runtime = make_runtime(tmp_path_factory.mktemp("surfaces"), specs, pool=SourcePool())
    with running(runtime) as url, httpx.Client(base_url=url) as client:
        yield client


def test_a_request_chooses_its_surface(http):
    for surface in ("explore", "reels"):
        page = http.get("/feed", params={"user_id": "1", "surface": surface}).json()
        assert page["surface"] == surface
        assert page["spec_version"].startswith(f"{surface}-")
        assert page["degraded"] == []
    assert http.get("/feed", params={"user_id": "1"}).json()["surface"] == "explore"


def test_an_unknown_surface_is_a_422_that_lists_the_known_ones(http):
    reply = http.get("/feed", params={"user_id": "1", "surface": "moon"})
    assert reply.status_code == 422
    assert "explore, reels, tab_1" in reply.json()["detail"][0]["msg"]


def test_a_cursor_belongs_to_its_surface(http):
    cursor = http.get("/feed", params={"user_id": "1", "surface": "reels"}).json()["next_cursor"]
    assert http.get("/feed", params={"user_id": "1", "surface": "reels", "cursor": cursor}).status_code == 200
    assert http.get("/feed", params={"user_id": "1", "surface": "explore", "cursor": cursor}).status_code == 422


def test_readiness_names_the_version_of_every_surface(http):
    found = http.get("/readyz").json()
    assert set(found["surfaces"]) == {"explore", "reels"}
    assert found["surfaces"]["explore"] == found["spec_version"]
    assert found["spec_refused"] is None
    assert found["models_refused"] == []
