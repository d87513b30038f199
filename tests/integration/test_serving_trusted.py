"""Which bundles and indexes serve: signed and whole ones, the newest first, and what happens to all others."""

import json
import shutil

import pytest

from core.settings import Settings
from serving.bootstrap import build_runtime
from serving.funnel.request import FeedRequest
from tests.served_world import make_world, publish_model, publish_vectors
from tests.serving_fakes import AS_OF, FakeReader, make_snapshot
from training.sign import sign_champions


@pytest.fixture(scope="module")
def first_world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("trusted"))


@pytest.fixture
def settings(first_world, tmp_path):
    """A copy of the world to spoil."""
    shutil.copytree(first_world.workspace.root, tmp_path / "world")
    return Settings(var_dir=tmp_path, dataset="world")


def served(settings, **options):
    settings = settings.model_copy(update=options)
    runtime = build_runtime(settings, reader=FakeReader(make_snapshot().catalogue))
    slate = runtime.funnel.serve(FeedRequest(1, AS_OF, limit=20, request_id=1))
    runtime.close()
    assert len(slate) == 20
    return runtime, slate


def champion(settings, kind):
    return json.loads((settings.workspace.bundles / kind / "champion.json").read_text())["bundle_id"]


def folder_of(settings, kind):
    return settings.workspace.bundles / kind / champion(settings, kind)


def replace_in(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


SPOILED = {
    "unsigned": (lambda f: (f / "signature.json").unlink(), "is not signed"),
    "half written": (lambda f: cut(f / "weights.safetensors"), "does not match its checksum"),
    "no weights": (lambda f: (f / "weights.safetensors").unlink(), "is missing"),
    "altered manifest": (
        lambda f: replace_in(f / "manifest.json", '"slope": 1.0', '"slope": 9.0'), "was altered after it was signed",
    ),
    "gone": (shutil.rmtree, "is not there"),
}  # fmt: skip


@pytest.mark.parametrize("how", SPOILED)
def test_a_spoiled_bundle_is_refused_with_its_reason_and_the_last_good_one_goes_on(settings, how):
    good = champion(settings, "second_stage")
    publish_model(settings, "second_stage", seed=1)
    sign_champions(settings)
    new = folder_of(settings, "second_stage")
    spoil, reason = SPOILED[how]
    spoil(new)
    runtime, slate = served(settings)
    assert slate.model_versions["second_stage"] == good != new.name
    assert slate.degraded == ()
    assert runtime.parts.stand_ins == ("second_stage",)
    assert reason in runtime.parts.problems["second_stage"]
    assert 'vitrine_part_missing{part="second_stage"} 1.0' in runtime.metrics.text().decode()


def test_without_a_last_good_one_the_stage_is_left_out_and_named(settings):
    (folder_of(settings, "second_stage") / "signature.json").unlink()
    runtime, slate = served(settings)
    assert slate.degraded == ("second_stage",)
    assert runtime.degraded() == ("second_stage",)
    assert "second_stage" not in slate.model_versions


def test_a_new_retrieval_bundle_waits_for_its_index(settings):
    old = champion(settings, "retrieval")
    new = publish_model(settings, "retrieval", seed=1)
    sign_champions(settings)
    runtime, slate = served(settings)
    assert slate.model_versions["retrieval"] == old != new
    assert slate.degraded == ()
    assert "made by bundle" in runtime.parts.problems["index"]
    shutil.rmtree(settings.workspace.index / "first_stage")
    publish_vectors(settings, make_snapshot())
    sign_champions(settings)
    runtime, slate = served(settings)
    assert slate.model_versions["retrieval"] == new
    assert runtime.parts.stand_ins == ()
    assert runtime.parts.problems == {}


@pytest.mark.parametrize("name", ["index.faiss", "post_ids.npy", "manifest.json", "signature.json"])
def test_a_spoiled_index_is_not_searched(settings, name):
    index = json.loads((settings.workspace.index / "champion.json").read_text())["index_id"]
    cut(settings.workspace.index / index / name)
    runtime, slate = served(settings)
    assert slate.degraded == ("source:two_tower",)
    assert "retrieval" not in slate.model_versions
    assert runtime.parts.problems["index"]


@pytest.mark.parametrize("name", ["vectors.npy", "post_ids.npy", "manifest.json", "signature.json"])
def test_spoiled_post_vectors_are_not_ranked_by(settings, name):
    cut(settings.workspace.index / "first_stage" / champion(settings, "first_stage") / name)
    runtime, slate = served(settings)
    assert slate.degraded == ("first_stage",)
    assert runtime.parts.problems["first_stage_vectors"]


def test_a_pinned_key_trusts_no_other(settings):
    own = settings.workspace.verify_key.read_text()
    assert served(settings, bundle_key=own)[1].degraded == ()
    other = "A" * 43 + "="
    assert served(settings, bundle_key=other)[1].degraded == ("source:two_tower", "first_stage", "second_stage")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"bundle_id": "../../elsewhere"}', '{"bundle_id": null}'])
def test_a_pointer_that_names_nothing_leaves_the_stage_out(settings, text):
    (settings.workspace.bundles / "second_stage" / "champion.json").write_text(text)
    runtime, slate = served(settings)
    assert slate.degraded == ("second_stage",)
    assert runtime.parts.problems["second_stage"]
