import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.errors import BundleError, ConfigError
from core.files import file_hash
from core.signatures import sign_folder, verify_files, verify_folder, verify_key
from core.workspace import Workspace


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "world")


@pytest.fixture
def folder(workspace):
    folder = workspace.root / "bundle"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"weights")
    (folder / "manifest.json").write_text(json.dumps({"sha256": {"weights": file_hash(folder / "weights")}}))
    sign_folder(workspace, folder)
    return folder


def test_what_was_signed_verifies_and_the_key_is_the_owners_alone(workspace, folder):
    signed = verify_folder(folder, verify_key(workspace))
    verify_files(folder, signed["sha256"])
    assert workspace.signing_key.stat().st_mode & 0o777 == 0o600
    before = (folder / "signature.json").read_bytes()
    sign_folder(workspace, folder)
    assert (folder / "signature.json").read_bytes() == before


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (lambda f: (f / "signature.json").unlink(), "is not signed"),
        (lambda f: (f / "signature.json").write_text("{}"), "is not a signature"),
        (lambda f: (f / "signature.json").write_bytes((f / "signature.json").read_bytes()[:40]), "is not a signature"),
        (lambda f: (f / "manifest.json").write_text('{"sha256": {}}'), "was altered after it was signed"),
        (lambda f: (f / "manifest.json").unlink(), "cannot be read"),
    ],
)
def test_anything_else_is_refused_with_the_reason(workspace, folder, alter, reason):
    alter(folder)
    with pytest.raises(BundleError, match=reason):
        verify_folder(folder, verify_key(workspace))


def test_a_file_beside_the_manifest_that_changed_is_refused(workspace, folder):
    signed = verify_folder(folder, verify_key(workspace))
    (folder / "weights").write_bytes(b"weightz")
    with pytest.raises(BundleError, match="does not match its checksum"):
        verify_files(folder, signed["sha256"])
    (folder / "weights").unlink()
    with pytest.raises(BundleError, match="cannot be read"):
        verify_files(folder, signed["sha256"])


def test_another_key_and_a_pinned_key(workspace, folder, tmp_path):
    stranger = base64.b64encode(Ed25519PrivateKey.generate().public_key().public_bytes_raw()).decode()
    with pytest.raises(BundleError, match="is signed by key"):
        verify_folder(folder, verify_key(workspace, stranger))
    verify_folder(folder, verify_key(workspace, workspace.verify_key.read_text()))
    with pytest.raises(ConfigError, match="VITRINE_BUNDLE_KEY"):
        verify_key(workspace, "nonsense")
    with pytest.raises(BundleError, match="nothing is trusted"):
        verify_key(Workspace(tmp_path / "other"))


def test_a_signing_key_that_others_can_read_signs_nothing(workspace, folder):
    workspace.signing_key.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        sign_folder(workspace, folder)
