"""The public keys of those who may sign rulebases: a directory of PEM files, or one of them."""

from __future__ import annotations

import logging
from pathlib import Path

from opportune_rulebase.signatures import KeyFileError, signed_by

from opportune_service.app.errors import UnsignedError

log = logging.getLogger(__name__)

SUFFIX = ".pem"


class SignersError(Exception):
    """The signers cannot be read; the message names the file."""


def read_signers(path: Path) -> dict[str, bytes]:
    """Public keys (PEM) by the names of their files without `.pem`, in order of names.

    Raises `SignersError` if nothing is there, a file cannot be read, or one is no public Ed25519 key.
    """
    try:
        files = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
        keys = {file.stem: file.read_bytes() for file in files}
    except OSError as error:
        raise SignersError(f"{error.filename or path}: {error.strerror or error}") from error
    if not keys:
        raise SignersError(f"{path}: there is no public key ({SUFFIX}) in this directory")
    for file, key in zip(files, keys.values(), strict=True):
        try:
            signed_by(b"", b"", key)
        except KeyFileError as error:
            raise SignersError(f"{file}: {error}") from error
    return keys


def signer_of(signers: Path, archive: bytes, signature: bytes) -> str | None:
    """The name of the signer whose signature of these very bytes it is; None if it is nobody's.

    The keys are read at each call, so that one that is added or taken away counts at once. Raises
    `UnsignedError` while they cannot be read: then nothing is signed.
    """
    try:
        keys = read_signers(signers)
    except SignersError as error:
        log.warning("the signers cannot be read, so nothing counts as signed: %s", error)
        raise UnsignedError("this service cannot read its signers now; its log says why") from error
    return next((name for name, key in keys.items() if signed_by(archive, signature, key)), None)
