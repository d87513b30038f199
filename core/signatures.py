"""Signatures of what one process writes and another loads: Ed25519 over a folder's manifest, which holds its checksums.

<folder>/manifest.json     SHA-256 of every other file
<folder>/signature.json    {"format": 1, "key_id", "signature"}
signing.key, signing.pub   of the workspace; a server needs only the second
"""

import base64
import contextlib
import hashlib
import json
import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from core.errors import BundleError, ConfigError
from core.files import file_hash, write_atomically
from core.workspace import Workspace

FORMAT = 1
MANIFEST, SIGNATURE = "manifest.json", "signature.json"
PURPOSE = b"vitrine manifest 1\0"
"""Put before what is signed, so that a signature made for this is worth nothing elsewhere."""


def sign_folder(workspace: Workspace, folder: Path) -> None:
    """Signs `folder/manifest.json` with the workspace's key, which is made on first use. Raises ConfigError."""
    key = _signing_key(workspace)
    signature = base64.b64encode(key.sign(PURPOSE + (folder / MANIFEST).read_bytes())).decode()
    content = {"format": FORMAT, "key_id": key_id(key.public_key()), "signature": signature}
    write_atomically(folder / SIGNATURE, json.dumps(content))


def verify_folder(folder: Path, key: Ed25519PublicKey) -> dict[str, object]:
    """The signed manifest. Raises BundleError unless `key` signed exactly these bytes.

    Files beside the manifest are checked against it by whoever reads them.
    """
    again = "train it again, or where you trust it run `python -m training sign`"
    try:
        kept = json.loads((folder / SIGNATURE).read_text())
        signature, made_by = base64.b64decode(kept["signature"], validate=True), str(kept["key_id"])
    except FileNotFoundError as error:
        raise BundleError(f"{folder} {'is not signed' if folder.exists() else 'is not there'}; {again}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{folder / SIGNATURE} is not a signature ({error!r}); {again}") from error
    try:
        manifest = (folder / MANIFEST).read_bytes()
        key.verify(signature, PURPOSE + manifest)
        signed = json.loads(manifest)
    except InvalidSignature as error:
        wanted = key_id(key)
        why = (
            f"is signed by key {made_by}, expected {wanted}" if made_by != wanted else "was altered after it was signed"
        )
        raise BundleError(f"{folder} {why}; {again}") from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{folder / MANIFEST} cannot be read ({error}); {again}") from error
    if not isinstance(signed, dict):
        raise BundleError(f"{folder / MANIFEST} is not a manifest; {again}")
    return signed


def verify_files(folder: Path, sha256: object) -> None:
    """Checks files of a folder against `{name: SHA-256}` of its signed manifest. Raises BundleError."""
    if not isinstance(sha256, dict):
        raise BundleError(f"{folder / MANIFEST} holds no checksums; build it again")
    for name, expected in sha256.items():
        try:
            found = file_hash(folder / Path(name).name)
        except OSError as error:
            raise BundleError(f"{folder / name} cannot be read ({error}); build it again") from error
        if found != expected:
            raise BundleError(f"{folder / name} does not match its checksum; build it again")


def verify_key(workspace: Workspace, pinned: str | None = None) -> Ed25519PublicKey:
    """The key that bundles must be signed with: `pinned`, else the workspace's. Raises BundleError, ConfigError."""
    try:
        text = workspace.verify_key.read_text() if pinned is None else pinned
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(text.strip(), validate=True))
    except FileNotFoundError as error:
        raise BundleError(
            f"no {workspace.verify_key}, so nothing is trusted; train again, or run `python -m training sign`"
        ) from error
    except (OSError, ValueError) as error:
        where = "VITRINE_BUNDLE_KEY" if pinned is not None else str(workspace.verify_key)
        raise ConfigError(f"{where} is not an Ed25519 public key in base64 ({error})") from error


def key_id(key: Ed25519PublicKey) -> str:
    """Short name of a key."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def _signing_key(workspace: Workspace) -> Ed25519PrivateKey:
    path = workspace.signing_key
    try:
        # Written whole under a temporary name and linked: two trainings at once agree on one key.
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        if not path.exists():
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(Ed25519PrivateKey.generate().private_bytes_raw())
                    file.flush()
                    os.fsync(file.fileno())
                with contextlib.suppress(FileExistsError):
                    os.link(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path} can be read by others; run `chmod 600 {path}`, or delete it to make a new one")
        key = Ed25519PrivateKey.from_private_bytes(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"the signing key {path} cannot be made or read: {error}") from error
    public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    if not workspace.verify_key.exists() or workspace.verify_key.read_text().strip() != public:
        write_atomically(workspace.verify_key, public + "\n")
    return key
