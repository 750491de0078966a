"""A service with signers: how it starts, what a store that was tampered with can do, and controls."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from opportune.v1 import rulebase_service_pb2 as pb
from opportune_rulebase import load, to_archive
from opportune_rulebase.signatures import sign
from opportune_service.app import promotions, rulebases
from opportune_service.app.errors import InvalidRequestError
from support.operators import refused
from support.server import Service, in_loop, running_service
from support.small_rulebase import small_rulebase

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
FILES = small_rulebase()
REVISION = load(FILES).revision


@pytest.fixture
def signers(tmp_path: Path) -> Path:
    directory = tmp_path / "signers"
    directory.mkdir()
    public = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (directory / "release.pem").write_bytes(public)
    return directory


def upload(service: Service, files: Mapping[str, bytes], *, signed: bool = True) -> Any:
    data = to_archive(files)
    private = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    archive = pb.RulebaseArchive(data=data, signature=sign(data, private) if signed else b"")
    return service.rulebases.UploadRulebase(pb.UploadRulebaseRequest(archive=archive))


def activate(service: Service) -> Any:
    return service.rulebases.ActivateRulebase(pb.ActivateRulebaseRequest(revision=REVISION))


async def check_not_signed(call: Any) -> str:
    said = await refused(call)
    assert (said.code, said.reason) == (grpc.StatusCode.PERMISSION_DENIED, "NOT_SIGNED")
    return said.message


@in_loop
async def test_a_signed_archive_stands_for_its_own_revision_only(tmp_path: Path, signers: Path) -> None:
    """In the store, the archive of one revision takes the place of that of another, with its signature."""
    async with running_service(tmp_path, {}, signers=signers) as service:
        await upload(service, FILES)
        other = (await upload(service, small_rulebase(threshold=4))).rulebase.revision
    connection = sqlite3.connect(tmp_path / "opportune.db")
    with connection:
        connection.execute(
            "UPDATE rulebases SET (archive, signature) = "
            "(SELECT archive, signature FROM rulebases WHERE revision = ?) WHERE revision = ?",
            (other, REVISION),
        )
    connection.close()
    async with running_service(tmp_path, {}, signers=signers) as service:
        assert "that of another one" in await check_not_signed(activate(service))


@in_loop
async def test_uploads_that_are_not_checked_are_found_out(
    signers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control."""
    async with running_service(None, {}, signers=signers) as service:
        await check_not_signed(upload(service, FILES, signed=False))
        monkeypatch.setattr(rulebases, "check_signature", lambda *_: "anybody")
        with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
            await check_not_signed(upload(service, FILES, signed=False))


@in_loop
async def test_activations_that_are_not_checked_are_found_out(
    tmp_path: Path, signers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control."""
    async with running_service(tmp_path, {}) as service:
        await upload(service, FILES, signed=False)
    async with running_service(tmp_path, {}, signers=signers) as service:
        await check_not_signed(activate(service))
        monkeypatch.setattr(promotions, "check_stored", lambda *_: None)
        with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
            await check_not_signed(activate(service))


@in_loop
async def test_it_does_not_start_with_what_nobody_can_have_signed(tmp_path: Path, signers: Path) -> None:
    with pytest.raises(InvalidRequestError, match="nobody has signed a directory"):
        async with running_service(tmp_path, {}, signers=signers, rulebase=tmp_path):
            pass
    (signers / "release.pem").unlink()
    with pytest.raises(InvalidRequestError, match="signers cannot be read"):
        async with running_service(tmp_path, {}, signers=signers):
            pass
