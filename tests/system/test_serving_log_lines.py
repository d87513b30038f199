"""No secret and nothing personal reaches a log line: a marker goes through every route, parameter, header and body,
with libraries logging all they can and with mistakes of ours in the way."""

import json
import logging

import httpx
import pytest
import structlog
from redis.exceptions import RedisError

from core.errors import StoreUnavailableError
from core.logs import configure_logs
from events.journal import Journal
from events.served import ServedLog
from serving.api_keys import add_key
from serving.app import create_app
from serving.security import Role
from tests.serving_fakes import FakeReader, make_parts, make_runtime, make_snapshot, make_spec
from tests.serving_server import running

MARKER = "mrkr7f3e"
SPEC = make_spec(eligibility={"min_pool": 5})


class TalkativeReader(FakeReader):
    """A store whose errors quote what they were asked for."""

    error = None

    def read(self, entity, ids, views):
        if self.error is not None:
            raise self.error
        return super().read(entity, ids, views)


@pytest.fixture
def logged(capfd):
    """Everything that was written since, with every logger at its loudest."""
    before, levels = logging.root.handlers[:], {}
    configure_logs("DEBUG", "json")
    for name in ("uvicorn", "uvicorn.error", "httpx", "httpcore"):
        levels[name] = logging.getLogger(name).level
    for name in ("httpx", "httpcore"):  # of this test's own client
        logging.getLogger(name).setLevel(logging.ERROR)
    yield capfd
    logging.root.handlers[:] = before
    logging.root.setLevel(logging.WARNING)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    structlog.reset_defaults()


def send_everything(url, document, key):
    """Every documented operation, well and badly, with the marker wherever a client can put it."""
    headers = {
        "X-API-Key": key, "User-Agent": MARKER, "Referer": f"http://{MARKER}/", "Cookie": f"id={MARKER}",
        "X-Request-ID": MARKER, "X-Forwarded-For": MARKER, "traceparent": MARKER, MARKER: MARKER,
    }  # fmt: skip
    event = {"event_id": MARKER, "kind": "like", "user_id": MARKER, "post_id": "41", "surface": MARKER}
    bodies = (
        {"user_id": MARKER}, {"user_id": MARKER, "context": {"session_id": MARKER, "language": MARKER}},
        {"events": [event, {**event, MARKER: 1}, MARKER]}, {MARKER: MARKER}, MARKER, [[MARKER]],
    )  # fmt: skip
    with httpx.Client(base_url=url, timeout=30) as http:
        for path, operations in document["paths"].items():
            for method in operations:
                raw = path.replace("{request_id}", MARKER)
                for body in bodies:
                    query = {"user_id": MARKER} | ({"cursor": MARKER, "surface": MARKER} if body == MARKER else {})
                    http.request(method, raw, params=query, json=body, headers=headers)
                http.request(method, f"{path}/{MARKER}", headers=headers)
                http.request(method, path, content=MARKER, headers={**headers, "Content-Type": "application/json"})
        http.get("/feed", params={"user_id": "1"}, headers={"X-API-Key": key + MARKER})
        http.get(f"/{MARKER}?{MARKER}={MARKER}", headers=headers)
        http.patch(f"/feed?{MARKER}={MARKER}", headers=headers)
        http.request(MARKER, f"/{MARKER}")


def test_the_marker_is_nowhere_in_the_log(tmp_path, logged, monkeypatch):
    reader = TalkativeReader(make_snapshot().catalogue)
    runtime = make_runtime(tmp_path, SPEC, make_parts(make_snapshot(), reader), key_rate=0)
    key, record = add_key(runtime.workspace.api_keys, "tester", Role.ADMIN)
    document = create_app(runtime).openapi()

    def broken(*_, **__):
        raise RuntimeError(f"cannot take {MARKER}")

    with running(runtime, log_config=None, log_level="debug", access_log=False) as url:
        send_everything(url, document, key)
        for error in (StoreUnavailableError(f"no {MARKER}"), RedisError(MARKER), ValueError(MARKER)):
            reader.error = error
            send_everything(url, document, key)
        reader.error = None
        monkeypatch.setattr(Journal, "append", broken)
        monkeypatch.setattr(ServedLog, "append", broken)
        send_everything(url, document, key)
        text = httpx.get(f"{url}/metrics", headers={"X-API-Key": key}).text
    written = logged.readouterr()
    lines = (written.err + written.out).splitlines()
    calls = [json.loads(line) for line in lines if '"event":"call"' in line]
    assert {200, 202, 401, 404, 405, 422, 500} <= {call["status"] for call in calls}
    assert all(len(call["request_id"]) == 16 for call in calls)
    assert record.key_id in {call["key"] for call in calls}
    assert any('"event":"call failed"' in line and '"error":"RuntimeError"' in line for line in lines)
    assert [line for line in lines if MARKER in line.lower()] == []
    assert [line for line in lines if key in line or key.split("_")[2] in line] == []
    assert MARKER not in text.lower()
