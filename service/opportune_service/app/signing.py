"""Whose rulebases the service takes: those that somebody signed who may."""

from __future__ import annotations

from collections.abc import Callable

from opportune_rulebase import from_archive, revision_of

from opportune_service.app.errors import UnsignedError

SignerOf = Callable[[bytes, bytes], str | None]
"""(Archive, signature) -> the name of the signer whose signature of these very bytes it is; None: of nobody
who may sign."""


def check_signature(signer_of: SignerOf | None, archive: bytes, signature: bytes) -> str:
    """Who signed an archive; "" if everybody may upload what nobody signed (`signer_of` is None).

    Raises `UnsignedError` if there is no signature, or it is not one of these bytes by a known signer.
    """
    if signer_of is None:
        return ""
    if not signature:
        raise UnsignedError("the archive is not signed, and this service takes signed ones only: sign it")
    name = signer_of(archive, signature)
    if name is None:
        raise UnsignedError(
            "the signature is not one of this archive by a signer that this service knows: "
            "sign these very bytes with a key whose public key is among its signers"
        )
    return name


def check_stored(signer_of: SignerOf | None, revision: str, archive: bytes, signature: bytes) -> None:
    """The same of what a store holds under a revision, by the keys of now; and that it is that revision,
    for else an archive that was signed for another one could stand there.

    Raises `UnsignedError`.
    """
    if check_signature(signer_of, archive, signature) and revision_of(from_archive(archive)) != revision:
        raise UnsignedError("the archive that is stored under this revision is that of another one")
