import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from core.errors import ConfigError
from serving.security import ApiKeys, is_loopback, require_keys_beyond_loopback
from serving.serve import serve
from tests.serving_fakes import make_settings

KEY = SecretStr("0123456789abcdef-key")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_keys(host):
    assert is_loopback(host)
    require_keys_beyond_loopback(host, ())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org", "", "127.0.0.1.example.org"])
def test_any_other_address_is_refused_without_keys(host):
    with pytest.raises(ConfigError, match="VITRINE_API_KEYS"):
        require_keys_beyond_loopback(host, ())
    require_keys_beyond_loopback(host, (KEY,))


def test_serve_refuses_before_it_loads_anything(tmp_path):
    with pytest.raises(ConfigError, match=r"0\.0\.0\.0"):
        serve(make_settings(tmp_path, host="0.0.0.0"))


def test_serve_command_ends_with_the_reason(tmp_path, monkeypatch):
    from serving.__main__ import app

    monkeypatch.setenv("VITRINE_VAR_DIR", str(tmp_path))
    found = CliRunner().invoke(app, ["serve", "--host", "0.0.0.0", "--port", "18999"])
    assert isinstance(found.exception, ConfigError)


def test_only_known_keys_are_accepted():
    keys = ApiKeys((KEY,))
    assert keys.are_required
    assert keys.accepts(KEY.get_secret_value())
    for wrong in (None, "", "0123456789abcdef-kez", "0123456789abcdef-key ", "ключ"):
        assert not keys.accepts(wrong)


def test_without_keys_everyone_is_accepted():
    assert ApiKeys(()).accepts(None)


def test_a_short_key_is_refused_without_being_printed():
    with pytest.raises(ConfigError) as caught:
        ApiKeys((SecretStr("hunter2"),))
    assert "hunter2" not in str(caught.value)
