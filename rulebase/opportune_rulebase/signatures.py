"""Signatures of archives: detached, Ed25519, over the bytes of the archive as they are.

Keys are PEM, as `openssl genpkey -algorithm ed25519` writes them. A signature is 64 bytes, the same that
`openssl pkeyutl -sign -rawin` gives.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

SIGNATURE_BYTES = 64


class KeyFileError(Exception):
    """A key cannot be used; the message says why and shows nothing of it."""


class PassphraseError(KeyFileError):
    """The private key is encrypted, and the passphrase is missing or wrong."""


def sign(archive: bytes, private_key: bytes, passphrase: bytes | None = None) -> bytes:
    """The signature of an archive by a private key (PEM). The same each time.

    Raises `KeyFileError` for what is no private Ed25519 key, `PassphraseError` without the passphrase of an
    encrypted one.
    """
    try:
        key = load_pem_private_key(private_key, passphrase)
    except TypeError:
        # Without a passphrase, or with one for a key that has none.
        raise PassphraseError("the private key is encrypted: its passphrase is needed") from None
    except (ValueError, UnsupportedAlgorithm):
        if passphrase is not None:
            raise PassphraseError("the passphrase is not that of the private key") from None
        raise KeyFileError(f"this is no private key in PEM; {_HOW}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"the private key is not an Ed25519 key; {_HOW}")
    return key.sign(archive)


def signed_by(archive: bytes, signature: bytes, public_key: bytes) -> bool:
    """Whether a signature of these very bytes was made by the private key of a public one (PEM).

    Raises `KeyFileError` for what is no public Ed25519 key.
    """
    try:
        key = load_pem_public_key(public_key)
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFileError("this is no public key in PEM: write it with openssl pkey -pubout") from None
    if not isinstance(key, Ed25519PublicKey):
        raise KeyFileError("the public key is not an Ed25519 key")
    try:
        key.verify(signature, archive)
    except InvalidSignature:
        return False
    return True


_HOW = "make one with openssl genpkey -algorithm ed25519"
