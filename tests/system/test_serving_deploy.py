"""New models and specs while users scroll: no request fails, and no page mixes versions. Each model of these tests
gives every post one probability of its own, each spec has its own weight, so every post tells what ranked it."""

import json
import math
import re
import shutil
import signal
import time

import httpx
import pytest

from core.files import write_atomically
from core.signatures import sign_folder
from models.calibration import Calibrator
from serving.spec_file import DEFAULT_SPEC, load_spec
from serving.spec_limits import STAGES
from tests.feed_readers import Readers, check_replies
from tests.redis_servers import redis_server
from tests.served_world import fill_redis, make_world, publish_model, publish_vectors, served
from tests.serving_fakes import make_settings, make_snapshot

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Feast's imports

TAKES_OVER_SECONDS = 60
LONG_DEADLINES = {"request_ms": 60_000} | {f"{stage}_ms": 9_000 for stage in STAGES}
# Nothing is left out for want of time, on however busy a machine.
SPEC = re.sub(
    r"(?<=deadline_ms: )\d+|(?<=deadlines: ){[^}]*}",
    lambda found: "9000" if found[0].isdigit() else str(LONG_DEADLINES).replace("'", ""),
    DEFAULT_SPEC.read_text(),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Settings, the spec file and the server's variables."""
    folder = tmp_path_factory.mktemp("deploy")
    settings = make_world(folder)
    spec = folder / "funnel.yaml"
    spec.write_text(SPEC)
    with redis_server() as port:
        url = f"redis://127.0.0.1:{port}/0"
        fill_redis(settings, url)
        yield settings, spec, {"VITRINE_REDIS_URL": url, "VITRINE_FUNNEL_SPEC": str(spec), "VITRINE_LOG_LEVEL": "ERROR"}


@pytest.fixture(scope="module")
def server(world):
    with served(world[0], **world[2]) as server:
        yield server


def ready(server):
    return httpx.get(f"{server.url}/readyz", timeout=30).raise_for_status().json()


def becomes(server, is_so, times=1):
    """Waits until as many answers in a row, each of a connection of its own, are so."""
    deadline, in_a_row = time.monotonic() + TAKES_OVER_SECONDS, 0
    while in_a_row < times:
        assert time.monotonic() < deadline, ready(server)
        in_a_row = in_a_row + 1 if is_so(ready(server)) else 0
        time.sleep(0.02)


class Deployed:
    """What went live, in order: weight of a click by spec version, its probability by bundle id."""

    def __init__(self, settings, spec):
        self._settings, self._spec = settings, spec
        self.weights, self.probabilities = {}, {}
        self.latest = None

    def deploy(self, number):
        write_atomically(self._spec, SPEC.replace("click: 1.0", f"click: {number + 1}.0"))
        intercept = -2.0 + 0.2 * number
        bundle = publish_model(
            self._settings, "second_stage", calibrator=Calibrator(slope=0.0, intercept=intercept), is_signed=True
        )
        self.latest = load_spec(self._spec).version, bundle
        self.weights[self.latest[0]] = number + 1.0
        self.probabilities[bundle] = 1 / (1 + math.exp(-intercept))

    def is_latest(self, found):
        return (found["spec_version"], found["model_versions"]["second_stage"]) == self.latest

    def check(self, reply):
        spec, bundle = reply.versions
        weight = self.weights[spec]
        for post in reply.page["posts"]:
            if post["probabilities"]:
                assert post["probabilities"]["click"] == pytest.approx(self.probabilities[bundle], rel=1e-5)
                assert post["value_contributions"]["click"] == pytest.approx(
                    weight * self.probabilities[bundle], rel=1e-5
                )
        return spec, bundle


def deploys_under_load(deployed, server, workers):
    deployed.deploy(0)
    becomes(server, deployed.is_latest, times=8 * workers)
    with Readers(server.url, count=3, keep_alive=workers == 1) as readers:
        readers.wait_for(10)
        for number in (1, 2, 3):
            deployed.deploy(number)
            if number == 2:
                server.send(signal.SIGHUP)  # to the parent, which tells its workers
            becomes(server, deployed.is_latest, times=8 * workers)
        readers.wait_for(10)
    check_replies(readers.replies)
    assert not {reply.status for reply in readers.replies} - {200, 503}
    seen = [deployed.check(reply) for reply in readers.replies if reply.status == 200 and reply.page["model_versions"]]
    assert len(set(seen)) >= 3
    assert set(seen[-3:]) == {deployed.latest}


def test_new_models_and_specs_under_load_fail_no_request_and_mix_in_no_page(world, server):
    deploys_under_load(Deployed(*world[:2]), server, 1)


def test_two_processes_take_them_over_each_by_itself(world):
    with served(world[0], 2, **world[2]) as server:
        deploys_under_load(Deployed(*world[:2]), server, 2)


@pytest.fixture
def readers(server):
    """Users who scroll all through a test and notice nothing."""
    before = ready(server)["model_versions"]
    with Readers(server.url) as readers:
        readers.wait_for(5)
        readers.before = before
        yield readers
    check_replies(readers.replies)
    assert {part for reply in readers.replies for part in reply.degraded} <= {"popular"}


def staged(settings, folder, kind, seed):
    """A signed bundle outside the workspace."""
    scratch = make_settings(folder)
    bundle = scratch.workspace.bundles / kind / publish_model(scratch, kind, seed)
    sign_folder(settings.workspace, bundle)
    return bundle


def point(settings, kind, name):
    pointer = settings.workspace.bundles / kind / "champion.json"
    write_atomically(pointer, json.dumps({"bundle_id": name, "previous": json.loads(pointer.read_text())["bundle_id"]}))


@pytest.mark.parametrize("how", ["corrupted", "half_written"])
def test_a_spoiled_bundle_is_refused_and_taken_once_it_is_whole(world, server, readers, tmp_path, how):
    settings = world[0]
    whole = staged(settings, tmp_path, "second_stage", seed=sum(how.encode()))
    target = settings.workspace.bundles / "second_stage" / whole.name
    target.mkdir()
    weights = next(whole.glob("*.safetensors"))
    content = weights.read_bytes()
    if how == "corrupted":
        shutil.copytree(whole, target, dirs_exist_ok=True)
        half = len(content) // 2
        (target / weights.name).write_bytes(content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :])
    else:
        (target / weights.name).write_bytes(content[: len(content) // 2])
    point(settings, "second_stage", whole.name)
    becomes(server, lambda found: found["models_refused"] == ["second_stage"])
    assert {reply.versions[1] for reply in readers.wait_for(10) if reply.page["model_versions"]} == {
        readers.before["second_stage"]
    }
    shutil.copytree(whole, target, dirs_exist_ok=True)
    becomes(server, lambda found: found["model_versions"]["second_stage"] == whole.name)
    assert ready(server)["models_refused"] == []


def test_a_retrieval_model_waits_for_the_index_that_it_makes(world, server, readers):
    settings = world[0]
    new = publish_model(settings, "retrieval", seed=7, is_signed=True)
    becomes(server, lambda found: found["models_refused"] == ["index"])
    assert ready(server)["model_versions"]["retrieval"] == readers.before["retrieval"] != new
    sources = [post["sources"] for reply in readers.wait_for(10) for post in reply.page.get("posts", ())]
    assert any("two_tower" in of_post for of_post in sources)
    publish_vectors(settings, make_snapshot(), ["retrieval"])
    index = settings.workspace.index / json.loads((settings.workspace.index / "champion.json").read_text())["index_id"]
    sign_folder(settings.workspace, index)
    becomes(server, lambda found: found["model_versions"]["retrieval"] == new)
    assert ready(server)["models_refused"] == []
