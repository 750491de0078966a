"""Signed rulebases over the wire, where the service asks for signatures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
import sqlalchemy as sa
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
from opportune_service.adapters.sql import schema
from support.operators import refused
from support.server import Service, in_loop, running_service
from support.small_rulebase import small_rulebase
from support.work_orders import order

FILES, OTHER = small_rulebase(), small_rulebase(text="Another text")
CURRENT, OTHER_REVISION = load(FILES).revision, load(OTHER).revision
ARCHIVE = to_archive(OTHER)
NOT_SIGNED = (grpc.StatusCode.PERMISSION_DENIED, "NOT_SIGNED")


class Signer:
    """Somebody with a key; whoever is `known` may sign."""

    def __init__(self, name: str) -> None:
        self._key = Ed25519PrivateKey.generate()
        self._name = name

    def known(self, directory: Path) -> Path:
        directory.mkdir(exist_ok=True)
        public = self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (directory / f"{self._name}.pem").write_bytes(public)
        return directory

    def sign(self, archive: bytes) -> bytes:
        private = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return sign(archive, private)


def upload(archive: bytes, signature: bytes) -> pb.UploadRulebaseRequest:
    return pb.UploadRulebaseRequest(archive=pb.RulebaseArchive(data=archive, signature=signature))


def activation(revision: str, expected: str, **fields: Any) -> pb.ActivateRulebaseRequest:
    return pb.ActivateRulebaseRequest(revision=revision, expected_current_revision=expected, **fields)


async def is_not_signed(call: Any) -> None:
    said = await refused(call)
    assert (said.code, said.reason) == NOT_SIGNED


@in_loop
async def test_only_what_is_signed_is_stored_and_comes_into_force(tmp_path: Path) -> None:
    wang, mallory = Signer("wang"), Signer("mallory")
    signers = wang.known(tmp_path / "signers")
    async with running_service(tmp_path, FILES, signers=signers) as service:
        good = wang.sign(ARCHIVE)
        changed = bytes([good[0] ^ 1]) + good[1:]
        for wrong in (b"", b"x", mallory.sign(ARCHIVE), wang.sign(to_archive(FILES)), changed):
            await is_not_signed(service.rulebases.UploadRulebase(upload(ARCHIVE, wrong)))
        listed = (await service.rulebases.ListRulebases(pb.ListRulebasesRequest())).rulebases
        assert [each.revision for each in listed] == [CURRENT]
        await service.rulebases.UploadRulebase(upload(ARCHIVE, good))
        request = pb.GetRulebaseRequest(revision=OTHER_REVISION, include_archive=True)
        kept = (await service.rulebases.GetRulebase(request)).archive
        assert (kept.data, kept.signature) == (ARCHIVE, good)
        await service.rulebases.ActivateRulebase(activation(OTHER_REVISION, CURRENT))
        # What the machine's own operator put in force is signed by nobody.
        rollback = pb.RollbackRulebaseRequest(expected_current_revision=OTHER_REVISION)
        await is_not_signed(service.rulebases.RollbackRulebase(rollback))
        assert service.app.live.id == OTHER_REVISION


@in_loop
async def test_the_keys_of_now_count(tmp_path: Path) -> None:
    wang, li = Signer("wang"), Signer("li")
    signers = wang.known(tmp_path / "signers")
    async with running_service(tmp_path, FILES, signers=signers) as service:
        await service.rulebases.UploadRulebase(upload(ARCHIVE, wang.sign(ARCHIVE)))
        (signers / "wang.pem").unlink()
        li.known(signers)
        for mode in (1, 2, 3):
            share = 0.5 if mode == 2 else 0
            request = activation(OTHER_REVISION, CURRENT, mode=mode, canary_share=share)
            await is_not_signed(service.rulebases.ActivateRulebase(request))
        again = await service.rulebases.UploadRulebase(upload(ARCHIVE, li.sign(ARCHIVE)))
        assert not again.already_known, "its signature is another"
        await service.rulebases.ActivateRulebase(activation(OTHER_REVISION, CURRENT))
        assert service.app.live.id == OTHER_REVISION


@in_loop
async def test_what_was_changed_in_the_store_stays_out_of_force(tmp_path: Path) -> None:
    wang = Signer("wang")
    signers = wang.known(tmp_path / "signers")
    async with running_service(tmp_path, FILES, signers=signers) as service:
        await service.rulebases.UploadRulebase(upload(ARCHIVE, wang.sign(ARCHIVE)))
        await _overwrite(service, archive=to_archive(small_rulebase(text="Evil")))
        await is_not_signed(service.rulebases.ActivateRulebase(activation(OTHER_REVISION, CURRENT)))
        await _overwrite(service, archive=ARCHIVE, signature=None)
        await is_not_signed(service.rulebases.ActivateRulebase(activation(OTHER_REVISION, CURRENT)))
        assert service.app.live.id == CURRENT


async def _overwrite(service: Service, **values: Any) -> None:
    def write() -> None:
        with service.app.ledger.transaction() as tx:
            where = schema.rulebases.c.revision == OTHER_REVISION
            tx._connection.execute(sa.update(schema.rulebases).where(where).values(**values))  # type: ignore[attr-defined]

    await service.app.thread.run(write)


@in_loop
async def test_a_work_order_waits_for_its_signature(tmp_path: Path) -> None:
    wang = Signer("wang")
    async with running_service(tmp_path, FILES, signers=wang.known(tmp_path / "signers")) as service:
        stored = await service.rulebases.UploadRulebase(order())
        revision = stored.rulebase.revision
        await is_not_signed(service.rulebases.ActivateRulebase(activation(revision, CURRENT)))
        request = pb.GetRulebaseRequest(revision=revision, include_archive=True)
        made = (await service.rulebases.GetRulebase(request)).archive
        assert not made.signature
        await service.rulebases.UploadRulebase(upload(made.data, wang.sign(made.data)))
        await service.rulebases.ActivateRulebase(activation(revision, CURRENT))
        assert service.app.live.id == revision


@in_loop
async def test_where_nobody_asks_signatures_are_kept_as_they_come(tmp_path: Path) -> None:
    wang = Signer("wang")
    async with running_service(tmp_path, FILES) as service:
        signature = wang.sign(ARCHIVE)
        await service.rulebases.UploadRulebase(upload(ARCHIVE, signature))
        other = await service.rulebases.UploadRulebase(upload(ARCHIVE, b"another"))
        assert other.already_known
    async with running_service(tmp_path, {}, signers=wang.known(tmp_path / "signers")) as service:
        await service.rulebases.ActivateRulebase(activation(OTHER_REVISION, CURRENT))
        assert service.app.live.id == OTHER_REVISION


@in_loop
async def test_without_the_look_at_signatures_it_would_come_into_force(tmp_path: Path) -> None:
    """The control."""
    signers = Signer("wang").known(tmp_path / "signers")
    with pytest.MonkeyPatch.context() as patch:
        for check in ("rulebases.check_signature", "promotions.check_stored"):
            patch.setattr(f"opportune_service.app.{check}", lambda *_: "")
        async with running_service(tmp_path, FILES, signers=signers) as service:
            await service.rulebases.UploadRulebase(upload(ARCHIVE, b""))
            await service.rulebases.ActivateRulebase(activation(OTHER_REVISION, CURRENT))
            assert service.app.live.id == OTHER_REVISION
