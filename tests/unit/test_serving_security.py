"""Who may call: keys in their file, roles, rates, and the rule that binds an open server to loopback."""

import json
import threading

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from core.errors import ConfigError
from serving.api_keys import ANYONE, KeyRing, add_key, read_keys, revoke_key
from serving.rates import TokenBuckets
from serving.security import Role, is_loopback, is_loopback_name, require_keys_beyond_loopback, required_role
from serving.serve import serve
from tests.serving_fakes import make_settings

KEY = SecretStr("0123456789abcdef-key")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_keys(host):
    assert is_loopback(host)
    require_keys_beyond_loopback(host, has_keys=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org", "", "127.0.0.1.example.org"])
def test_any_other_address_is_refused_without_keys(host):
    with pytest.raises(ConfigError, match="VITRINE_API_KEYS"):
        require_keys_beyond_loopback(host, has_keys=False)
    require_keys_beyond_loopback(host, has_keys=True)


def test_serve_refuses_before_it_loads_anything(tmp_path):
    with pytest.raises(ConfigError, match=r"0\.0\.0\.0"):
        serve(make_settings(tmp_path, host="0.0.0.0"))


def test_serve_command_ends_with_the_reason(tmp_path, monkeypatch):
    from serving.__main__ import app

    monkeypatch.setenv("VITRINE_VAR_DIR", str(tmp_path))
    found = CliRunner().invoke(app, ["serve", "--host", "0.0.0.0", "--port", "18999"])
    assert isinstance(found.exception, ConfigError)


class Ticking:
    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


def test_a_key_is_kept_as_a_hash_that_only_its_owner_reads(tmp_path):
    path = tmp_path / "api_keys.json"
    key, record = add_key(path, "the shop", Role.WRITE, rate=5.0)
    text = path.read_text()
    assert key not in text
    assert key.split("_", 2)[2] not in text
    assert path.stat().st_mode & 0o077 == 0
    assert read_keys(path) == (record,)
    caller = KeyRing(path, (), Ticking()).caller(key)
    assert (caller.key_id, caller.role, caller.rate) == (record.key_id, Role.WRITE, 5.0)


def test_only_known_keys_are_accepted(tmp_path):
    key, _ = add_key(tmp_path / "k.json", "a", Role.READ)
    ring = KeyRing(tmp_path / "k.json", (KEY,), Ticking())
    assert ring.caller(KEY.get_secret_value()).role is Role.ADMIN
    assert ring.caller(key).role is Role.READ
    for wrong in (None, "", KEY.get_secret_value()[:-1], key + " ", key[:-1], "ключ"):
        assert ring.caller(wrong) is None


def test_every_key_is_compared_in_constant_time(tmp_path, monkeypatch):
    compared = []
    monkeypatch.setattr("hmac.compare_digest", lambda a, b: compared.append((len(a), len(b))) or a == b)
    keys = [add_key(tmp_path / "k.json", str(i), Role.READ)[0] for i in range(5)]
    ring = KeyRing(tmp_path / "k.json", (), Ticking())
    for offered in (keys[0], "wrong"):
        compared.clear()
        ring.caller(offered)
        assert compared == [(32, 32)] * 5


def test_a_running_server_follows_the_file_and_never_opens_by_losing_it(tmp_path):
    path, clock = tmp_path / "k.json", Ticking()
    ring = KeyRing(path, (), clock)
    assert ring.caller(None) is ANYONE

    first, record = add_key(path, "first", Role.READ)
    clock.seconds += 1
    assert ring.caller(None) is None
    assert ring.caller(first) is not None

    second, _ = add_key(path, "second", Role.READ)
    revoke_key(path, record.key_id)
    clock.seconds += 1
    assert ring.caller(first) is None
    assert ring.caller(second) is not None

    path.write_text("{")
    clock.seconds += 1
    assert ring.caller(second) is not None

    path.unlink()
    clock.seconds += 1
    assert ring.caller(second) is None
    assert ring.caller(None) is None


def test_keys_added_at_once_are_all_kept(tmp_path):
    threads = [threading.Thread(target=add_key, args=(tmp_path / "k.json", str(i), Role.READ)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in read_keys(tmp_path / "k.json")} == {str(i) for i in range(8)}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 2, "keys": []}', '{"format": 1, "keys": [{"role": "god"}]}']
)
def test_a_file_that_holds_no_keys_says_so(tmp_path, text):
    (tmp_path / "k.json").write_text(text)
    with pytest.raises(ConfigError, match=r"k\.json"):
        KeyRing(tmp_path / "k.json", (), Ticking())


def test_a_short_key_is_refused_without_being_printed(tmp_path):
    with pytest.raises(ConfigError) as caught:
        KeyRing(tmp_path / "k.json", (SecretStr("hunter2"),), Ticking())
    assert "hunter2" not in str(caught.value)


def test_commands_make_list_and_revoke_keys(tmp_path, monkeypatch):
    from serving.__main__ import app

    settings = make_settings(tmp_path)
    monkeypatch.setenv("VITRINE_VAR_DIR", str(tmp_path))
    made = CliRunner().invoke(app, ["keys", "add", "the shop", "--role", "admin", "--rate", "7"])
    (record,) = read_keys(settings.workspace.api_keys)
    assert (record.name, record.role, record.rate) == ("the shop", Role.ADMIN, 7.0)
    key = made.stdout.strip()
    assert KeyRing(settings.workspace.api_keys, (), Ticking()).caller(key).key_id == record.key_id
    listed = CliRunner().invoke(app, ["keys", "list"]).output
    assert record.key_id in listed
    assert key not in listed
    assert json.loads(settings.workspace.api_keys.read_text())["keys"][0]["sha256"] not in listed
    CliRunner().invoke(app, ["keys", "revoke", record.key_id])
    assert read_keys(settings.workspace.api_keys) == ()
    again = CliRunner().invoke(app, ["keys", "revoke", record.key_id])
    assert isinstance(again.exception, ConfigError)


@pytest.mark.parametrize(
    ("method", "path", "role"),
    [
        ("GET", "/feed", Role.READ),
        ("POST", "/feed", Role.READ),
        ("POST", "/events", Role.WRITE),
        ("DELETE", "/posts/7", Role.WRITE),
        ("BREW", "/feed", Role.WRITE),
        ("POST", "/feed/", Role.WRITE),
        ("GET", "/export/posts", Role.ADMIN),
        ("GET", "/exports", Role.READ),
        ("POST", "/admin", Role.ADMIN),
    ],
)
def test_what_a_call_needs(method, path, role):
    assert required_role(method, path) is role


@pytest.mark.parametrize("name", ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:80", "[::1]"])
def test_names_of_this_machine(name):
    assert is_loopback_name(name)


@pytest.mark.parametrize(
    "name", ["", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "[::2]:80"]
)
def test_names_of_others(name):
    assert not is_loopback_name(name)


def test_a_bucket_gives_a_seconds_worth_at_once_and_then_its_rate():
    clock = Ticking()
    buckets = TokenBuckets(clock)
    assert [buckets.take("a", 3.0) for _ in range(4)] == [0.0, 0.0, 0.0, pytest.approx(1 / 3)]
    assert buckets.take("b", 3.0) == 0.0
    clock.seconds = 10.0
    assert sum(buckets.take("a", 3.0) == 0.0 for _ in range(10)) == 3
    assert [buckets.take("slow", 0.5) for _ in range(2)] == [0.0, 2.0]
    assert all(buckets.take("free", 0.0) == 0.0 for _ in range(100))
