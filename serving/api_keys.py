"""API keys: made and revoked in a file of the workspace, held as hashes, taken over by a running server.

    var/<dataset>/api_keys.json    {"format": 1, "keys": [{"key_id", "name", "role", "sha256", "created_at", "rate"}]}

A key is `vtr_<key id>_<256 random bits>`, so one plain SHA-256 is as slow to invert as any password hash.
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import SecretStr

from core.clock import WallClock
from core.errors import ConfigError
from core.files import write_atomically
from core.logs import logger
from events.lock import exclusive
from serving.security import Role

FORMAT = 1
MIN_KEY_LENGTH = 16
CHECK_SECONDS = 1.0
"""A running server looks at most this often whether the file changed."""


@dataclass(frozen=True)
class KeyRecord:
    """What is kept of a key. `rate` in requests per second, None for the server's own limit."""

    key_id: str
    name: str
    role: Role
    sha256: str
    created_at: str
    rate: float | None = None


@dataclass(frozen=True)
class Caller:
    """Who is calling: a key's id, or a word where none is asked for."""

    key_id: str
    role: Role
    rate: float | None = None


ANYONE = Caller("none", Role.ADMIN, rate=0.0)
"""Whoever calls a server that asks for no keys."""


def read_keys(path: Path) -> tuple[KeyRecord, ...]:
    """The keys in the file, none where there is no file. Raises ConfigError for one that is not a key file."""
    try:
        kept = json.loads(path.read_text())
        if kept["format"] != FORMAT:
            raise ValueError(f"format {kept['format']}, expected {FORMAT}")
        return tuple(KeyRecord(**{**key, "role": Role[key["role"].upper()]}) for key in kept["keys"])
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is not a file of API keys ({error!r}); restore it, or delete it and add keys"
        ) from error


def add_key(path: Path, name: str, role: Role, rate: float | None = None) -> tuple[str, KeyRecord]:
    """A new key, never shown again, and what was kept of it."""
    key_id = secrets.token_hex(4)
    key = f"vtr_{key_id}_{secrets.token_urlsafe(32)}"
    record = KeyRecord(key_id, name, role, _hash(key).hex(), WallClock().now().isoformat(timespec="seconds"), rate)
    with exclusive(path.parent, path.name):
        _write(path, (*read_keys(path), record))
    return key, record


def revoke_key(path: Path, key_id: str) -> KeyRecord:
    """The record of the key, which is now gone. Raises ConfigError for an id that is not there."""
    with exclusive(path.parent, path.name):
        keys = read_keys(path)
        gone = next((key for key in keys if key.key_id == key_id), None)
        if gone is None:
            known = ", ".join(key.key_id for key in keys) or "none"
            raise ConfigError(f"no API key {key_id!r} in {path}; known ids: {known}")
        _write(path, tuple(key for key in keys if key is not gone))
    return gone


def _write(path: Path, keys: Sequence[KeyRecord]) -> None:
    listed = [asdict(key) | {"role": key.role.name.lower()} for key in keys]
    write_atomically(path, json.dumps({"format": FORMAT, "keys": listed}, indent=1))


class KeyRing:
    """The accepted keys of a running server; follows the file.

    Once keys were asked for they stay asked for: a file that vanishes shuts the door, it does not open it.
    """

    def __init__(self, path: Path, fixed: Sequence[SecretStr], now: Callable[[], float]) -> None:
        """`fixed` keys are the environment's and admin. Raises ConfigError for short keys or a broken file."""
        self._path = path
        self._now = now
        self._fixed = tuple(_fixed(place, key.get_secret_value()) for place, key in enumerate(fixed))
        self._looked_at = now()
        self._stamp = _stamp(path)
        self._known = self._fixed + _callers(read_keys(path))
        self.is_required = bool(self._known)

    def caller(self, offered: str | None) -> Caller | None:
        """Who the key belongs to; ANYONE where no keys are asked for, None for a key that is not ours."""
        self._follow()
        if not self.is_required:
            return ANYONE
        offered_hash = _hash(offered or "")
        # Every key is compared, in constant time each: how long it takes tells nothing about which one came close.
        matches = [caller for known, caller in self._known if hmac.compare_digest(offered_hash, known)]
        return matches[0] if matches and offered is not None else None

    def _follow(self) -> None:
        now = self._now()
        if now - self._looked_at < CHECK_SECONDS:
            return
        self._looked_at = now
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._known = self._fixed + _callers(read_keys(self._path))
        except ConfigError as error:
            logger("serving").error("API keys not reloaded, the ones before stay", reason=str(error))
            return
        self.is_required = self.is_required or bool(self._known)
        logger("serving").info("API keys reloaded", keys=len(self._known))


def _callers(records: Sequence[KeyRecord]) -> tuple[tuple[bytes, Caller], ...]:
    return tuple((bytes.fromhex(key.sha256), Caller(key.key_id, key.role, key.rate)) for key in records)


def _fixed(place: int, key: str) -> tuple[bytes, Caller]:
    if len(key) < MIN_KEY_LENGTH:
        raise ConfigError(
            f"VITRINE_API_KEYS: key number {place + 1} is shorter than {MIN_KEY_LENGTH} characters; "
            "make one with `openssl rand -hex 24`"
        )
    return _hash(key), Caller(f"environment-{place + 1}", Role.ADMIN)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes when the file is replaced."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
