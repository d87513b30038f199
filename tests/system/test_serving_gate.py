"""The door of the service over real HTTP: keys, roles, rates, foreign pages, limits on bodies and time, headers."""

import socket
import threading
import time

import httpx
import pytest

from events.journal import Journal
from serving.api_keys import add_key, revoke_key
from serving.security import Role
from tests.serving_fakes import FakeReader, make_parts, make_runtime, make_snapshot, make_spec
from tests.serving_server import running

SPEC = make_spec(eligibility={"min_pool": 5})
SECURITY_HEADERS = {
    "content-security-policy", "x-content-type-options", "x-frame-options", "referrer-policy", "permissions-policy",
    "cross-origin-opener-policy", "cross-origin-resource-policy", "cache-control", "x-request-id",
}  # fmt: skip


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with running(make_runtime(tmp_path_factory.mktemp("gate"), SPEC, answer_seconds=3, body_seconds=1)) as url:
        yield url


def like(number=0):
    return {"event_id": f"e{number}", "kind": "like", "user_id": "1", "post_id": "41"}


def test_roles_decide_what_a_key_may_do_and_keys_come_and_go_without_a_restart(tmp_path):
    runtime = make_runtime(tmp_path, SPEC)
    path = runtime.workspace.api_keys
    keys = {role: add_key(path, role.name, role) for role in (Role.READ, Role.WRITE)}
    with running(runtime) as url, httpx.Client(base_url=url) as http:

        def ask(method, where, key, **what):
            return http.request(method, where, headers={"X-API-Key": key}, **what).status_code

        for role, (key, _) in keys.items():
            assert ask("GET", "/feed?user_id=1", key) == 200
            assert ask("POST", "/feed", key, json={"user_id": "1"}) == 200
            assert ask("POST", "/events", key, json={"events": [like()]}) == (202 if role is Role.WRITE else 403)
            assert ask("POST", "/admin/anything", key) == 403
        admin, _ = add_key(path, "later", Role.ADMIN)
        revoke_key(path, keys[Role.READ][1].key_id)
        deadline = time.monotonic() + 10
        while ask("GET", "/feed?user_id=1", admin) != 200 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert ask("POST", "/admin/anything", admin) == 404
        assert ask("GET", "/feed?user_id=1", keys[Role.READ][0]) == 401


def test_a_key_that_calls_too_often_waits_and_others_do_not(tmp_path):
    runtime = make_runtime(tmp_path, SPEC)
    hasty, _ = add_key(runtime.workspace.api_keys, "hasty", Role.READ, rate=2.0)
    other, _ = add_key(runtime.workspace.api_keys, "other", Role.READ)
    with running(runtime) as url:
        replies = [httpx.get(f"{url}/users/sample", headers={"X-API-Key": hasty}) for _ in range(6)]
        assert replies[0].status_code == 200
        assert replies[-1].status_code == 429
        assert int(replies[-1].headers["retry-after"]) >= 1
        assert httpx.get(f"{url}/users/sample", headers={"X-API-Key": other}).status_code == 200
        assert httpx.get(f"{url}/healthz").status_code == 200
        text = httpx.get(f"{url}/metrics", headers={"X-API-Key": other}).text
        assert 'vitrine_refused_total{reason="rate"}' in text


def test_pages_of_other_origins_neither_read_nor_write(url):
    foreign = {"Origin": "https://evil.example"}
    asked = httpx.options(f"{url}/feed", headers={**foreign, "Access-Control-Request-Method": "GET"})
    assert not [name for name in asked.headers if name.startswith("access-control")]
    read = httpx.get(f"{url}/feed?user_id=1", headers=foreign)
    assert "access-control-allow-origin" not in read.headers
    assert httpx.post(f"{url}/events", json={"events": [like(1)]}, headers=foreign).status_code == 403
    assert httpx.post(f"{url}/events", json={"events": [like(1)]}, headers={"Origin": "null"}).status_code == 403
    assert httpx.post(f"{url}/events", json={"events": [like(1)]}, headers={"Origin": url}).status_code == 202
    plain = httpx.post(f"{url}/events", content='{"events": []}', headers={"Content-Type": "text/plain"})
    assert plain.status_code == 422
    # A name of somebody else's that was pointed at this machine.
    assert httpx.get(f"{url}/feed?user_id=1", headers={"Host": "evil.example"}).status_code == 403


def test_a_body_may_be_nested_so_deep_and_no_deeper(url):
    def nested(depth):
        body = '{"events": [' + '{"a": ' * (depth - 2) + "0" + "}" * (depth - 2) + "]}"
        return httpx.post(f"{url}/events", content=body, headers={"Content-Type": "application/json"})

    assert nested(32).status_code == 202
    refused = nested(33)
    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"] == ["body"]
    for raw in (b"[" * 1_900_000, b'{"a":' * 300_000, b'{"a": "' + b"[" * 1_000_000 + b'"}'):
        reply = httpx.post(f"{url}/feed", content=raw, headers={"Content-Type": "application/json"})
        assert reply.status_code in (400, 422)


def test_a_body_that_does_not_arrive_is_a_408_and_the_connection_ends(url):
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        head = (
            "POST /events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        connection.sendall(head.encode())
        reply = b""
        while chunk := connection.recv(65_536):
            reply += chunk
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert httpx.get(f"{url}/healthz").status_code == 200


def test_an_answer_that_does_not_come_is_a_503_and_the_server_goes_on(tmp_path):
    snapshot = make_snapshot()
    release = threading.Event()
    release.set()  # a server that starts ranks a feed in vain

    class Stuck(FakeReader):
        def read(self, entity, ids, views):
            release.wait(20)
            return super().read(entity, ids, views)

    parts = make_parts(snapshot, Stuck(snapshot.catalogue))
    with running(make_runtime(tmp_path, SPEC, parts, answer_seconds=0.5)) as url:
        release.clear()
        late = httpx.get(f"{url}/feed?user_id=1", timeout=10)
        assert late.status_code == 503
        assert late.headers["retry-after"] == "1"
        release.set()
        assert httpx.get(f"{url}/feed?user_id=1", timeout=10).status_code == 200


def test_every_answer_carries_the_headers_that_protect_a_browser(url, tmp_path, monkeypatch):
    too_large = httpx.post(f"{url}/events", content=b"x" * 2_000_001)
    for reply, status in (
        (httpx.get(f"{url}/"), 200),
        (httpx.get(f"{url}/feed"), 422),
        (httpx.get(f"{url}/nowhere"), 404),
        (too_large, 413),
    ):
        assert reply.status_code == status
        assert set(reply.headers) >= SECURITY_HEADERS
    assert "unsafe" not in httpx.get(f"{url}/").headers["content-security-policy"]

    def break_down(self, events):
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(Journal, "append", break_down)
    with running(make_runtime(tmp_path, SPEC)) as broken_url:
        broken = httpx.post(f"{broken_url}/events", json={"events": [like()]})
        assert broken.status_code == 500
        assert set(broken.headers) >= SECURITY_HEADERS
        assert "mistake" not in broken.text


def test_a_page_has_the_id_of_its_call(url):
    reply = httpx.get(f"{url}/feed?user_id=1")
    assert reply.headers["x-request-id"] == reply.json()["request_id"]
    assert httpx.get(f"{url}/requests/{reply.json()['request_id']}").status_code == 200
    assert httpx.get(f"{url}/healthz").headers["x-request-id"] != reply.headers["x-request-id"]
