"""Several surfaces in one process, and specs and models that are exchanged while requests run."""

import itertools
import json
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from events.served import ServedLog
from serving.bootstrap import build_runtime
from serving.funnel.request import FeedRequest
from serving.reload import Reloader, Watcher
from serving.snapshot import save_snapshot
from serving.spec_file import DEFAULT_SPEC
from tests.serving_fakes import FakeModel, FakeReader, make_parts, make_settings, make_snapshot
from tests.waiting import soon

TEXT = DEFAULT_SPEC.read_text()


def write(folder, surface, **replaced):
    text = TEXT.replace("surface: explore", f"surface: {surface}").replace("slate_size: 100", "slate_size: 30")
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    (folder / f"{surface}.yaml").write_text(text)


class Platform:
    """A runtime over real files: a folder of specs, and parts that a test may replace as a training would."""

    def __init__(self, folder, monkeypatch):
        self.specs = folder / "specs"
        self.specs.mkdir()
        write(self.specs, "explore")
        write(self.specs, "reels", **{"quota: 1000": "quota: 300"})
        self.settings = make_settings(folder, funnel_spec=self.specs)
        snapshot = make_snapshot()
        save_snapshot(self.settings.workspace, snapshot)
        self.parts = make_parts(snapshot)
        monkeypatch.setattr("serving.bootstrap.load_parts", lambda *_: self.parts)
        reader = FakeReader(snapshot.catalogue)
        self.runtime = build_runtime(self.settings, reader=reader, is_patient=True)
        self.reloader = Reloader(self.runtime)
        self.served = ServedLog(self.runtime.workspace.served)
        ids = itertools.count(1)
        self.feed = self.runtime.open_feed(self.served, lambda: next(ids))

    def publish(self, parts, number):
        """Newer models, and the pointer that says so."""
        self.parts = parts
        pointer = self.settings.workspace.bundles / "second_stage" / "champion.json"
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.write_text(json.dumps({"bundle_id": f"model-{number}"}))

    def page(self, cursor=None, surface="explore", user_id=1, limit=10):
        return self.feed.page(FeedRequest(user_id, self.runtime.clock.now(), limit=limit, surface=surface), cursor)

    def close(self):
        self.feed.close()
        self.served.close()
        self.runtime.close()


@pytest.fixture
def platform(tmp_path, monkeypatch):
    platform = Platform(tmp_path, monkeypatch)
    yield platform
    platform.close()


def newer_model(parts, number):
    class Newer(FakeModel):
        bundle_id = f"model-{number}"

    return replace(parts, second_stage=Newer(), versions={**parts.versions, "second_stage": f"model-{number}"})


def test_each_surface_has_its_own_funnel(platform):
    explore, reels = platform.page(), platform.page(surface="reels")
    assert explore.spec_version.startswith("explore-")
    assert reels.spec_version.startswith("reels-")
    assert platform.runtime.funnels.current.of("reels").spec.sources["two_tower"].quota == 300
    assert platform.page(surface="tab_1").spec_version == explore.spec_version


def test_surfaces_of_equal_caches_read_features_once(platform):
    funnels = platform.runtime.funnels.current.by_surface
    assert funnels["explore"].features is funnels["reels"].features


def test_a_changed_spec_takes_over_and_the_rest_stays(platform):
    before = dict(platform.runtime.funnels.current.by_surface)
    write(platform.specs, "explore", **{"diversity: 0.05": "diversity: 0.1"})
    assert platform.reloader.reload()
    after = platform.runtime.funnels.current.by_surface
    assert after["reels"] is before["reels"]
    assert after["explore"].spec.rerank.diversity == 0.1
    assert after["explore"].features is before["explore"].features  # what was read stays read
    assert platform.page().spec_version == after["explore"].spec.version


def test_a_comment_changes_nothing(platform):
    before = platform.runtime.funnels.current
    (platform.specs / "explore.yaml").write_text("# seen\n" + (platform.specs / "explore.yaml").read_text())
    assert not platform.reloader.reload()
    assert platform.runtime.funnels.current is before


def test_an_invalid_spec_is_refused_with_its_reason_and_the_one_before_goes_on(platform):
    before = platform.page().spec_version
    write(platform.specs, "explore", **{"creator_window: 2": "creator_window: 200"})
    assert not platform.reloader.reload()
    assert "rerank.creator_window" in platform.runtime.funnels.spec_refused
    assert "explore.yaml:" in platform.runtime.funnels.spec_refused
    assert platform.page().spec_version == before
    write(platform.specs, "explore", **{"creator_window: 2": "creator_window: 1"})
    assert platform.reloader.reload()
    assert platform.runtime.funnels.spec_refused is None
    assert platform.page().spec_version != before


def test_a_folder_that_is_gone_is_refused(platform):
    for file in platform.specs.glob("*.yaml"):
        file.unlink()
    assert not platform.reloader.reload()
    assert "no funnel spec" in platform.runtime.funnels.spec_refused
    assert len(platform.page().posts) == 10


def test_surfaces_come_and_go(platform):
    write(platform.specs, "home")
    (platform.specs / "reels.yaml").unlink()
    assert platform.reloader.reload()
    assert set(platform.runtime.funnels.current.by_surface) == {"explore", "home"}
    assert platform.page(surface="home").spec_version.startswith("home-")


def test_a_surface_becomes_the_default_by_the_name_of_its_file(platform):
    (platform.specs / "reels.yaml").rename(platform.specs / "a_reels.yaml")
    assert platform.reloader.reload()
    assert platform.runtime.spec.surface == "reels"


def test_a_poll_waits_until_a_file_rests(platform):
    assert not platform.reloader.poll()
    write(platform.specs, "explore", **{"diversity: 0.05": "diversity: 0.1"})
    assert not platform.reloader.poll()
    write(platform.specs, "explore", **{"diversity: 0.05": "diversity: 0.2"})
    assert not platform.reloader.poll()
    assert platform.reloader.poll()
    assert platform.runtime.spec.rerank.diversity == 0.2
    assert not platform.reloader.poll()


def test_newer_models_take_over_with_new_features(platform):
    features = platform.runtime.funnel.features
    platform.publish(newer_model(platform.parts, 2), 2)
    assert platform.reloader.reload()
    assert platform.page().model_versions["second_stage"] == "model-2"
    assert platform.runtime.funnel.features is not features


def test_models_that_do_not_load_are_refused_until_they_do(platform):
    whole = platform.parts
    platform.publish(replace(whole, search=None, tower=None, problems={"index": "made by another bundle"}), 2)
    assert not platform.reloader.reload()
    assert platform.runtime.funnels.models_refused == ("index",)
    assert platform.page().degraded == ()
    assert platform.page().model_versions["second_stage"] == "model-1"
    platform.publish(newer_model(whole, 3), 3)
    assert platform.reloader.reload()
    assert platform.runtime.funnels.models_refused == ()
    assert platform.page().model_versions["second_stage"] == "model-3"


def test_refused_models_are_looked_at_again_once_a_file_of_theirs_changes(platform):
    whole = platform.parts
    folder = platform.settings.workspace.bundles / "second_stage" / "model-2"
    folder.mkdir(parents=True)
    platform.publish(replace(whole, second_stage=None, problems={"second_stage": "half written"}), 2)
    assert [platform.reloader.poll() for _ in range(3)] == [False] * 3
    assert platform.runtime.funnels.models_refused == ("second_stage",)
    platform.parts = newer_model(whole, 2)
    (folder / "weights.safetensors").write_text("all of it")
    assert [platform.reloader.poll() for _ in range(3)] == [False, True, False]
    assert platform.page().model_versions["second_stage"] == "model-2"
    assert platform.runtime.funnels.models_refused == ()


def test_a_page_never_mixes_versions_and_names_those_that_ranked_it(platform):
    first = platform.page()
    old = first.spec_version
    write(platform.specs, "explore", **{"diversity: 0.05": "diversity: 0.1"})
    platform.reloader.reload()
    second = platform.page(first.next_cursor, limit=15)
    assert second.spec_version == old  # cut from the slate that was ranked before
    third = platform.page(second.next_cursor, limit=15)
    assert (third.spec_version, len(third.posts)) == (old, 5)  # ends where that slate ends
    fourth = platform.page(third.next_cursor, limit=15)
    assert fourth.spec_version == platform.runtime.spec.version != old
    assert len(fourth.posts) == 15
    shown = [entry.post.post_id for page in (first, second, third, fourth) for entry in page.posts]
    assert len(shown) == len(set(shown))
    assert platform.served.page(third.request_id).spec_version == old


def test_under_load_no_request_fails_and_no_slate_mixes_versions(platform):
    pairs, failures, is_over = set(), [], threading.Event()

    def scroll(user_id):
        cursor = None
        while not is_over.is_set():
            try:
                page = platform.page(cursor, user_id=user_id, limit=20)
                assert page.posts
                pairs.add((page.spec_version, page.model_versions["second_stage"]))
                cursor = page.next_cursor if np.random.default_rng().random() < 0.7 else None
            except Exception as error:
                failures.append(repr(error))
                return

    threads = [threading.Thread(target=scroll, args=(user_id,)) for user_id in (1, 2, 4)]
    for thread in threads:
        thread.start()
    expected = {(platform.runtime.spec.version, "model-1")}
    for number in range(2, 8):
        write(platform.specs, "explore", **{"diversity: 0.05": f"diversity: 0.{number}"})
        platform.publish(newer_model(platform.parts, number), number)
        assert platform.reloader.reload()
        expected.add((platform.runtime.spec.version, f"model-{number}"))
        time.sleep(0.05)
    is_over.set()
    for thread in threads:
        thread.join(20)
    assert failures == []
    assert len(pairs) > 2
    assert pairs <= expected


def test_the_watcher_sees_a_change_by_itself_and_survives_a_fault(platform, monkeypatch):
    watcher = Watcher(platform.runtime, every_seconds=0.02)
    monkeypatch.setattr(platform.runtime.__class__, "renewed", lambda *_: 1 / 0)
    watcher.start()
    write(platform.specs, "explore", **{"diversity: 0.05": "diversity: 0.1"})
    assert soon(lambda: platform.runtime.funnels.spec_refused)
    assert "ZeroDivisionError" in platform.runtime.funnels.spec_refused
    assert platform.runtime.spec.rerank.diversity == 0.05
    monkeypatch.undo()
    monkeypatch.setattr("serving.bootstrap.load_parts", lambda *_: platform.parts)
    write(platform.specs, "explore", **{"diversity: 0.05": "diversity: 0.3"})
    assert soon(lambda: platform.runtime.spec.rerank.diversity == 0.3)
    assert platform.runtime.funnels.spec_refused is None
    watcher.stop()
