"""Who may call the service: keys compared in constant time, and the rule that binds an open server to loopback."""

import hashlib
import hmac
import ipaddress
from collections.abc import Sequence

from pydantic import SecretStr

from core.errors import ConfigError

KEY_HEADER = "X-API-Key"
OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""Paths that answer without a key, for load balancers."""
MIN_KEY_LENGTH = 16


class ApiKeys:
    """The accepted keys, held only as hashes."""

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        for place, key in enumerate(keys):
            if len(key.get_secret_value()) < MIN_KEY_LENGTH:
                raise ConfigError(
                    f"VITRINE_API_KEYS: key number {place + 1} is shorter than {MIN_KEY_LENGTH} characters; "
                    "make one with `openssl rand -hex 24`"
                )
        self._hashes = tuple(_hash(key.get_secret_value()) for key in keys)

    @property
    def are_required(self) -> bool:
        return bool(self._hashes)

    def accepts(self, offered: str | None) -> bool:
        """Whether the key is one of ours; takes equally long for every wrong key."""
        if not self._hashes:
            return True
        offered_hash = _hash(offered or "")
        # Every key is compared, so that time tells nothing about which one came close.
        matches = [hmac.compare_digest(offered_hash, known) for known in self._hashes]
        return offered is not None and any(matches)


def require_keys_beyond_loopback(host: str, keys: Sequence[SecretStr]) -> None:
    """Raises ConfigError when the server would answer other machines without keys."""
    if keys or is_loopback(host):
        return
    raise ConfigError(
        f"refusing to listen on {host} without API keys: anyone who reaches it could read every feed; "
        "set VITRINE_API_KEYS to a JSON list such as '[\"…\"]', or bind 127.0.0.1"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
