"""Signed, opaque cursors: where a visit's next page starts. A client can neither read ids from nor forge one."""

import base64
import contextlib
import hmac
import math
import os
import secrets
import struct
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from core.clock import Clock, WallClock
from core.errors import ConfigError
from core.settings import Settings

_LAYOUT = struct.Struct(">BQQQII")
_VERSION = 2
_TAG_BYTES = 16
_SECRET_BYTES = 32


@dataclass(frozen=True)
class Cursor:
    """Next page of a visit: `offset` posts of it were served. `list_id` names the ranked list they were cut from."""

    visit_id: int
    list_id: int
    user_id: int
    offset: int


class CursorError(ValueError):
    """A cursor that this service did not sign for this user and surface, or that is too old."""


class CursorSigner:
    """Writes and reads cursors under one secret. They expire by the wall clock, which clients live by."""

    def __init__(self, secret: bytes, max_age_seconds: float, clock: Clock | None = None) -> None:
        self._secret = secret
        self._max_age_seconds = max_age_seconds
        self._clock = clock or WallClock()

    def write(self, cursor: Cursor, surface: str) -> str:
        """The cursor as URL-safe text."""
        expires_at = min(2**32 - 1, math.ceil(self._now() + self._max_age_seconds))
        payload = _LAYOUT.pack(_VERSION, cursor.visit_id, cursor.list_id, cursor.user_id, cursor.offset, expires_at)
        return base64.urlsafe_b64encode(payload + self._tag(payload, surface)).rstrip(b"=").decode()

    def read(self, text: str, user_id: int, surface: str) -> Cursor:
        """The cursor in `text`. Raises CursorError unless it was signed for this user and surface and is in time."""
        try:
            # Strict alphabet: Python's decoder would skip foreign characters, and one cursor have many spellings.
            raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except ValueError as error:
            raise CursorError("is not a cursor of this service") from error
        payload, tag = raw[: _LAYOUT.size], raw[_LAYOUT.size :]
        if len(payload) != _LAYOUT.size or not hmac.compare_digest(tag, self._tag(payload, surface)):
            raise CursorError("was altered, or belongs to another surface or server")
        version, visit_id, list_id, owner, offset, expires_at = _LAYOUT.unpack(payload)
        if version != _VERSION or owner != user_id:
            raise CursorError("belongs to another user")
        if self._now() > expires_at:
            raise CursorError("has expired; ask for the feed again without a cursor")
        return Cursor(visit_id, list_id, owner, offset)

    def _now(self) -> float:
        return self._clock.now().timestamp()

    def _tag(self, payload: bytes, surface: str) -> bytes:
        return hmac.new(self._secret, payload + surface.encode(), sha256).digest()[:_TAG_BYTES]


def cursor_secret(settings: Settings) -> bytes:
    """The key that cursors are signed with: the one set, else the workspace's own. Raises ConfigError."""
    if settings.cursor_key is None:
        return load_secret(settings.workspace.cursor_secret)
    key = settings.cursor_key.get_secret_value().encode()
    if len(key) < _SECRET_BYTES:
        raise ConfigError(
            f"VITRINE_CURSOR_KEY has {len(key)} bytes, expected {_SECRET_BYTES} or more; "
            "make one with `openssl rand -hex 32`"
        )
    return key


def load_secret(path: Path) -> bytes:
    """The workspace's secret, made on first use, readable by its owner only. Raises ConfigError when it is not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written whole under a temporary name and linked: two servers starting at once agree on one secret.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        if not path.exists():
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(_SECRET_BYTES))
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path} can be read by others; run `chmod 600 {path}` or delete it to make a new one")
        secret = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"the cursor secret {path} cannot be made or read: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    if len(secret) != _SECRET_BYTES:
        raise ConfigError(f"{path} holds {len(secret)} bytes, expected {_SECRET_BYTES}; delete it to make a new one")
    return secret
