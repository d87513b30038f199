"""Calls made up from the service's own OpenAPI document, right and wrong ones: no 5xx, no hang, replies as declared."""

import contextlib
import json

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance

from tests.serving_fakes import make_runtime, make_spec
from tests.serving_server import running


@schemathesis.serializer("application/x-ndjson")
def as_lines(ctx, value):
    """Lines of an import, as JSON each; what is no list of lines goes as it is."""
    lines = value if isinstance(value, list) else [value]
    return "\n".join(json.dumps(line) for line in lines).encode(errors="surrogatepass")


CHECKS = (not_a_server_error, response_schema_conformance)
HANG_SECONDS = 20


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    spec = make_spec(eligibility={"min_pool": 5})
    with running(make_runtime(tmp_path_factory.mktemp("fuzz"), spec)) as url:
        yield url


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("num_cases", [300, pytest.param(10_000, marks=pytest.mark.long)])
def test_no_call_of_the_document_breaks_the_service(url, num_cases):
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    # An operation without parameters has one right call and few wrong ones.
    varied = [o for o in operations if o.path_parameters or o.query or o.body]
    assert {o.path for o in varied} >= {"/feed", "/events", "/requests/{request_id}"}
    called = []

    def call(case):
        called.append(case.path)
        case.call_and_validate(base_url=url, timeout=HANG_SECONDS, checks=CHECKS)

    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            count = num_cases // (2 * len(varied)) + 1 if operation in varied else 5
            fuzz = given(operation.as_strategy(generation_mode=mode))(call)
            with contextlib.suppress(Unsatisfiable):  # a call without parameters that is wrong
                settings(
                    max_examples=count, deadline=None, database=None, derandomize=True,
                    suppress_health_check=list(HealthCheck),
                )(fuzz)()  # fmt: skip
    assert len(called) >= num_cases * 0.9
    assert httpx.get(f"{url}/healthz").status_code == 200


BIG = 2**63
EDGES = (
    "0", "00", "-1", str(BIG - 1), str(BIG), str(2**64), "9" * 128, "x" * 128, "x" * 129, "", " ", "é", "\u202e",
    "😀" * 128,
)  # fmt: skip


@pytest.mark.parametrize("user_id", EDGES)
def test_ids_at_the_limits(url, user_id):
    by_query = httpx.get(f"{url}/feed", params={"user_id": user_id}, timeout=HANG_SECONDS)
    by_body = httpx.post(f"{url}/feed", json={"user_id": user_id}, timeout=HANG_SECONDS)
    event = {"event_id": f"edge{user_id}"[:128], "kind": "like", "user_id": user_id, "post_id": user_id}
    by_event = httpx.post(f"{url}/events", json={"events": [event]}, timeout=HANG_SECONDS)
    expected = 200 if 1 <= len(user_id) <= 128 else 422
    assert (by_query.status_code, by_body.status_code, by_event.status_code) == (expected, expected, 202)


BODIES = {
    "cut": (b'{"events": [{"event_id": "a"', 422),
    "not UTF-8": (b'{"events": ["\xff\xfe\xc3"]}', 400),
    "UTF-16": ('{"events": [1]}'.encode("utf-16"), 202),
    "half a pair of surrogates": (
        b'{"events": [{"event_id": "\\ud800", "kind": "like", "user_id": "1", "post_id": "1"}]}',
        202,
    ),
    "half a pair in a key": (b'{"events": [{"\\udfff": 1}], "\\ud800": 1}', 422),
    "half a pair in the key of an event": (b'{"events": [{"event_id": "\\ud800", "\\udfff": 1}]}', 202),
    "a null byte": (b'{"events": [{"event_id": "a\\u0000b", "kind": "like", "user_id": "1", "post_id": "1"}]}', 202),
    "NaN": (b'{"events": [{"dwell_seconds": NaN}]}', 202),
    "a huge number": (b'{"events": [{"position": 1' + b"0" * 100_000 + b"}]}", 422),
    "10 MB of events": (json.dumps({"events": [{"event_id": "x" * 100}] * 80_000}).encode(), 413),
    "10 MB of one text": (b'{"events": ["' + b"x" * 10_000_000 + b'"]}', 413),
}


@pytest.mark.parametrize("what", BODIES)
def test_bodies_that_no_good_client_sends(url, what):
    body, expected = BODIES[what]
    headers = {"Content-Type": "application/json"}
    reply = httpx.post(f"{url}/events", content=body, headers=headers, timeout=HANG_SECONDS)
    assert reply.status_code in {expected, 400, 422}
    assert reply.json() if reply.headers["content-type"] == "application/json" else reply.text
