"""How a text becomes short messages: GSM 03.38 or UCS-2, in parts that a handset puts together again."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

GSM: Final = 0x00
UCS2: Final = 0x08
"""Values of SMPP's `data_coding`."""

_BASIC: Final = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENDED: Final = dict(
    zip("\f^{}\\[~]|€", (0x0A, 0x14, 0x28, 0x29, 0x2F, 0x3C, 0x3D, 0x3E, 0x40, 0x65), strict=True)
)
_ESCAPE: Final = 0x1B
_TO_GSM: Final = {
    character: bytes([code]) for code, character in enumerate(_BASIC) if character != "\x1b"
} | {character: bytes([_ESCAPE, code]) for character, code in _EXTENDED.items()}
_FROM_EXTENDED: Final = {code: character for character, code in _EXTENDED.items()}

_WHOLE: Final = {GSM: 160, UCS2: 140}
_PART: Final = {GSM: 153, UCS2: 134}
"""What fits into one message, and into a part of several: septets, or bytes (3GPP TS 23.040)."""

MAX_PARTS: Final = 255


@dataclass(frozen=True, slots=True)
class Parts:
    """A text as `short_message` fields. `joined`: each begins with the header that joins them (UDH)."""

    data: Sequence[bytes]
    data_coding: int

    @property
    def joined(self) -> bool:
        return len(self.data) > 1


def parts_of(text: str, key: str) -> Parts:
    """The text in as few parts as its characters allow; none is cut in the middle of a character.

    GSM 03.38 is sent a septet a byte, as SMPP does. `key` names the message: the same one gets the same
    reference number, by which a handset joins the parts. ValueError: it takes more than `MAX_PARTS`.
    """
    if all(character in _TO_GSM for character in text):
        coding, encoded = GSM, [_TO_GSM[character] for character in text]
    else:
        # A lone half of a surrogate pair is no text; a question mark is what a person would see.
        coding = UCS2
        encoded = [
            ("?" if "\ud800" <= character <= "\udfff" else character).encode("utf-16-be")
            for character in text
        ]
    if sum(map(len, encoded)) <= _WHOLE[coding]:
        return Parts([b"".join(encoded)], coding)
    bodies = list(_packed(encoded, _PART[coding]))
    if len(bodies) > MAX_PARTS:
        raise ValueError(f"the text takes {len(bodies)} short messages; {MAX_PARTS} can be joined")
    reference = zlib.crc32(key.encode()) & 0xFF
    return Parts(
        [
            bytes([5, 0, 3, reference, len(bodies), number]) + body
            for number, body in enumerate(bodies, start=1)
        ],
        coding,
    )


def text_of(data: bytes, data_coding: int) -> str:
    """What a received message says. Bytes that mean nothing become a replacement character."""
    if data_coding == UCS2:
        return data.decode("utf-16-be", errors="replace")
    if data_coding == GSM:
        return "".join(_characters(data))
    return data.decode("latin-1")


def _packed(encoded: Sequence[bytes], most: int) -> Iterator[bytes]:
    part = bytearray()
    for character in encoded:
        if len(part) + len(character) > most:
            yield bytes(part)
            part.clear()
        part += character
    if part:
        yield bytes(part)


def _characters(data: bytes) -> Iterator[str]:
    escaped = False
    for code in data:
        if escaped:
            yield _FROM_EXTENDED.get(code, "\ufffd")
            escaped = False
        elif code == _ESCAPE:
            escaped = True
        else:
            yield _BASIC[code] if code < len(_BASIC) else "\ufffd"
