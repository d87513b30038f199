"""Who may do what: roles, the role a call needs, and the rule that binds a server without keys to loopback."""

import ipaddress
from enum import IntEnum

from core.errors import ConfigError

KEY_HEADER = "X-API-Key"
OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""Paths that answer without a key, for load balancers."""
ADMIN_PATHS = ("/admin", "/export", "/import")
"""Whole data sets and the running of the service itself; everything below these paths too."""
READING_POSTS = frozenset({"/feed"})
"""Paths whose POST only asks."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Role(IntEnum):
    """What a key allows; a higher role holds every lower one."""

    READ = 1
    WRITE = 2
    ADMIN = 3


def required_role(method: str, path: str) -> Role:
    """The least role that a call needs: a path nobody thought of is a write unless its method is safe."""
    if any(path == prefix or path.startswith(f"{prefix}/") for prefix in ADMIN_PATHS):
        return Role.ADMIN
    if method in SAFE_METHODS or (method == "POST" and path in READING_POSTS):
        return Role.READ
    return Role.WRITE


def require_keys_beyond_loopback(host: str, has_keys: bool) -> None:
    """Raises ConfigError when the server would answer other machines without keys."""
    if has_keys or is_loopback(host):
        return
    raise ConfigError(
        f"refusing to listen on {host} without API keys: anyone who reaches it could read every feed; make one with "
        "`python -m serving keys add NAME --role read`, set VITRINE_API_KEYS to a JSON list such as '[\"…\"]', "
        "or bind 127.0.0.1"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_loopback_name(host_header: str) -> bool:
    """Whether a Host header names this machine, with or without a port."""
    name = host_header.strip()
    if name.startswith("["):
        return is_loopback(name.partition("]")[0])
    return is_loopback(name.partition(":")[0].lower())
