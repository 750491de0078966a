"""Signed archives: what counts as signed, what does not, and the commands that sign and verify."""

from __future__ import annotations

import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from opportune_rulebase import from_archive, revision_of, to_archive
from opportune_rulebase.signatures import (
    SIGNATURE_BYTES,
    KeyFileError,
    PassphraseError,
    sign,
    signed_by,
)
from opportune_service.adapters.files import signers as adapter
from opportune_service.adapters.files.signers import SignersError, read_signers, signer_of
from opportune_service.app.errors import UnsignedError
from opportune_service.app.signing import check_signature
from opportune_service.cli import app
from support.small_rulebase import small_rulebase
from typer.testing import CliRunner, Result

ARCHIVE = to_archive(small_rulebase())


def pem(key: Ed25519PrivateKey, passphrase: bytes = b"") -> bytes:
    protection = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
SIGNATURE = sign(ARCHIVE, pem(KEY))
RSA = generate_private_key(65537, 2048)


@pytest.fixture
def signers(tmp_path: Path) -> Path:
    directory = tmp_path / "signers"
    directory.mkdir()
    (directory / "release.pem").write_bytes(public(KEY))
    return directory


def run(*arguments: object, answer: str = "") -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=answer)


def test_a_signature_is_of_these_bytes_by_this_key() -> None:
    assert len(SIGNATURE) == SIGNATURE_BYTES
    assert sign(ARCHIVE, pem(KEY)) == SIGNATURE
    assert signed_by(ARCHIVE, SIGNATURE, public(KEY))
    assert not signed_by(ARCHIVE, SIGNATURE, public(OTHER))
    assert not signed_by(ARCHIVE, sign(ARCHIVE, pem(OTHER)), public(KEY))
    assert not signed_by(ARCHIVE, b"", public(KEY))
    assert not signed_by(ARCHIVE, SIGNATURE[:-1], public(KEY))


@given(at=st.integers(0, len(ARCHIVE) - 1), bit=st.integers(0, 7))
def test_one_bit_of_the_archive_breaks_it(at: int, bit: int) -> None:
    changed = bytearray(ARCHIVE)
    changed[at] ^= 1 << bit
    assert not signed_by(bytes(changed), SIGNATURE, public(KEY))


@given(at=st.integers(0, SIGNATURE_BYTES - 1), bit=st.integers(0, 7))
def test_one_bit_of_the_signature_breaks_it(at: int, bit: int) -> None:
    changed = bytearray(SIGNATURE)
    changed[at] ^= 1 << bit
    assert not signed_by(ARCHIVE, bytes(changed), public(KEY))


def test_only_ed25519_keys_sign() -> None:
    rsa = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(KeyFileError, match="not an Ed25519 key"):
        sign(ARCHIVE, rsa)
    with pytest.raises(KeyFileError, match="no private key"):
        sign(ARCHIVE, b"nonsense")
    with pytest.raises(KeyFileError, match="no private key"):
        sign(ARCHIVE, public(KEY))
    with pytest.raises(KeyFileError, match="no public key"):
        signed_by(ARCHIVE, SIGNATURE, pem(KEY))


def test_an_encrypted_key_needs_its_passphrase() -> None:
    locked = pem(KEY, b"sesame")
    assert sign(ARCHIVE, locked, b"sesame") == SIGNATURE
    for wrong in (None, b"open"):
        with pytest.raises(PassphraseError):
            sign(ARCHIVE, locked, wrong)


def test_a_signer_is_known_by_the_name_of_the_key(signers: Path) -> None:
    assert signer_of(signers, ARCHIVE, SIGNATURE) == "release"
    assert signer_of(signers / "release.pem", ARCHIVE, SIGNATURE) == "release"
    assert signer_of(signers, ARCHIVE, sign(ARCHIVE, pem(OTHER))) is None


def test_keys_rotate_without_a_restart(signers: Path) -> None:
    by = partial(signer_of, signers)
    later = sign(ARCHIVE, pem(OTHER))
    assert by(ARCHIVE, later) is None
    (signers / "release-2027.pem").write_bytes(public(OTHER))
    assert (by(ARCHIVE, SIGNATURE), by(ARCHIVE, later)) == ("release", "release-2027")
    (signers / "release.pem").unlink()
    assert (by(ARCHIVE, SIGNATURE), by(ARCHIVE, later)) == (None, "release-2027")


def test_signers_that_cannot_be_read_sign_nothing(signers: Path, tmp_path: Path) -> None:
    (signers / "broken.pem").write_bytes(b"nonsense")
    with pytest.raises(SignersError, match=r"broken\.pem"):
        read_signers(signers)
    with pytest.raises(UnsignedError, match="its log says why") as caught:
        signer_of(signers, ARCHIVE, SIGNATURE)
    assert str(tmp_path) not in str(caught.value)
    for nothing in (tmp_path / "absent", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(SignersError):
            read_signers(nothing)


def test_what_is_not_signed_is_refused_where_signers_are_set(signers: Path) -> None:
    by = partial(signer_of, signers)
    assert check_signature(None, ARCHIVE, b"") == ""
    assert check_signature(by, ARCHIVE, SIGNATURE) == "release"
    for archive, signature in (
        (ARCHIVE, b""),
        (ARCHIVE, sign(ARCHIVE, pem(OTHER))),
        (ARCHIVE + b"x", SIGNATURE),
        (to_archive(small_rulebase(threshold=4)), SIGNATURE),
    ):
        with pytest.raises(UnsignedError):
            check_signature(by, archive, signature)


def test_a_check_that_is_left_out_is_found_out(signers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: if any signature counted, the test above would be red."""
    monkeypatch.setattr(adapter, "signed_by", lambda *_: True)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_what_is_not_signed_is_refused_where_signers_are_set(signers)


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    directory = tmp_path / "rulebase"
    for name, content in small_rulebase().items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    (tmp_path / "key.pem").write_bytes(pem(KEY))
    result = run("pack", directory, "--out", tmp_path / "small.zip")
    assert result.exit_code == 0, result.output
    assert revision_of(small_rulebase()) in result.stdout
    return tmp_path / "small.zip"


def test_pack_sign_and_verify(packed: Path, signers: Path) -> None:
    assert from_archive(packed.read_bytes()) == small_rulebase()
    assert packed.read_bytes() == ARCHIVE
    signed = run("sign", packed, "--key", packed.with_name("key.pem"))
    assert signed.exit_code == 0, signed.output
    assert packed.with_name("small.zip.sig").read_bytes() == SIGNATURE
    verified = run("verify", packed, "--signers", signers)
    assert verified.exit_code == 0, verified.output
    assert f"{revision_of(small_rulebase())}, signed by release" in verified.stdout


def test_verify_says_no(packed: Path, signers: Path) -> None:
    assert "is not signed" in run("verify", packed, "--signers", signers).stderr
    run("sign", packed, "--key", packed.with_name("key.pem"))
    packed.write_bytes(to_archive(small_rulebase(threshold=4)))
    changed = run("verify", packed, "--signers", signers)
    assert changed.exit_code == 1
    assert "by release" in changed.stderr
    (signers / "release.pem").write_bytes(b"nonsense")
    assert run("verify", packed, "--signers", signers).exit_code == 5


def test_sign_asks_for_the_passphrase(packed: Path) -> None:
    key = packed.with_name("locked.pem")
    key.write_bytes(pem(KEY, b"sesame"))
    assert run("sign", packed, "--key", key, answer="open\n").exit_code == 1
    result = run("sign", packed, "--key", key, answer="sesame\n")
    assert result.exit_code == 0, result.output
    assert "sesame" not in result.output
    assert packed.with_name("small.zip.sig").read_bytes() == SIGNATURE


def test_sign_refuses_what_is_no_archive_or_no_key(packed: Path) -> None:
    key = packed.with_name("key.pem")
    assert run("sign", key, "--key", key).exit_code == 5
    assert run("sign", packed, "--key", packed).exit_code == 1
    assert not packed.with_name("small.zip.sig").exists()


def test_a_rulebase_with_errors_is_not_packed(packed: Path) -> None:
    (packed.parent / "rulebase" / "policies.yaml").write_text("capz: {}\n")
    assert run("pack", packed.parent / "rulebase", "--out", packed.with_name("bad.zip")).exit_code == 1
    assert not packed.with_name("bad.zip").exists()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_makes_the_keys_and_the_same_signatures(packed: Path, tmp_path: Path) -> None:
    """The commands of the guide."""
    keys = tmp_path / "keys"
    keys.mkdir()
    for command in (
        "openssl genpkey -algorithm ed25519 -out release.key",
        "openssl pkey -in release.key -pubout -out release.pem",
        f"openssl pkeyutl -sign -rawin -inkey release.key -in {packed} -out by-openssl.sig",
    ):
        subprocess.run(command.split(), cwd=keys, check=True, capture_output=True)
    assert run("sign", packed, "--key", keys / "release.key").exit_code == 0
    assert packed.with_name("small.zip.sig").read_bytes() == (keys / "by-openssl.sig").read_bytes()
    assert run("verify", packed, "--signers", keys).exit_code == 0
