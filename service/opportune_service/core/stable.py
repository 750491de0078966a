"""Hashes that decide something: the same for the same words, in every process and for ever."""

from __future__ import annotations

from hashlib import blake2b


def digest(purpose: bytes, *parts: str) -> bytes:
    """12 bytes made of the parts. Each purpose has its own, which tells nothing about the others."""
    # With their lengths: any character may stand in a part, so none can separate them.
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return blake2b(text.encode(), digest_size=12, person=purpose).digest()


def number_below(bound: int, purpose: bytes, *parts: str) -> int:
    """An evenly spread number from 0 up to `bound`, which must be positive, exclusive."""
    return int.from_bytes(digest(purpose, *parts)) % bound
