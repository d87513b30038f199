"""Traces as a collector receives them, over OTLP from a server process's own settings; and none where none is asked."""

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from serving.bootstrap import build_runtime
from tests.served_world import make_world
from tests.serving_fakes import FakeReader, make_snapshot
from tests.serving_server import running


@pytest.fixture
def collector():
    received = []

    class Collect(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, self.headers, ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collect)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()
    server.server_close()


def test_a_call_becomes_a_trace_with_a_span_per_stage_at_its_own_time(tmp_path, collector, monkeypatch):
    endpoint, received = collector
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=feeds")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "feeds-in-test")
    settings = make_world(tmp_path)
    reader = FakeReader(make_snapshot().catalogue)
    caller = "0af7651916cd43dd8448eb211c80319c"
    with running(build_runtime(settings, reader=reader)) as url:
        parent = {"traceparent": f"00-{caller}-b7ad6b7169203331-01"}
        reply = httpx.get(f"{url}/feed?user_id=1", headers=parent)
        assert reply.status_code == 200
    # The server has ended: everything that waited was sent.
    assert {path for path, _, _ in received} == {"/v1/traces"}
    assert received[0][1]["x-team"] == "feeds"
    (resource,) = {str(r.resource) for _, _, sent in received for r in sent.resource_spans}
    assert "feeds-in-test" in resource
    spans = [s for _, _, sent in received for r in sent.resource_spans for scope in r.scope_spans for s in scope.spans]
    call = next(s for s in spans if s.name == "GET /feed")
    assert call.trace_id.hex() == caller
    told = {a.key: a.value for a in call.attributes}
    assert told["vitrine.request_id"].string_value == reply.json()["request_id"]
    stages = {s.name.removeprefix("stage "): s for s in spans if s.parent_span_id == call.span_id}
    assert {"user", "source.two_tower", "retrieval", "eligibility", "first_stage", "second_stage"} <= set(stages)
    slack = 2_000_000  # the wall clock tells microseconds, and this machine's steps
    for stage in stages.values():
        assert call.start_time_unix_nano - slack <= stage.start_time_unix_nano <= stage.end_time_unix_nano
        assert stage.end_time_unix_nano <= call.end_time_unix_nano + slack
    ordered = [stages[name].start_time_unix_nano for name in ("user", "retrieval", "first_stage", "second_stage")]
    assert ordered == sorted(ordered)
    sizes = {a.key: a.value.int_value for a in stages["second_stage"].attributes}
    assert sizes["num_in"] >= sizes["num_out"] > 0
    assert all("user_id" not in a.key for s in spans for a in s.attributes)


def test_where_none_are_asked_for_the_sdk_is_not_even_imported():
    code = "import sys, serving.serve; sys.exit(any(m.startswith('opentelemetry.sdk') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
