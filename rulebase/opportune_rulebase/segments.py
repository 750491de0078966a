"""How many SMS a text takes.

A text of the GSM 03.38 alphabet alone is sent in 7-bit characters: 160 in one SMS, 153 in each of several,
where those of its extension table count two. Any other text is sent in UCS-2: 70 units in one SMS, 67 in
each of several, where characters beyond the first 65,536 (emoji) take two. Nothing that takes two is split
between two SMS.
"""

from __future__ import annotations

from typing import Final

_BASIC: Final = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENSION: Final = frozenset("\f^{}\\[~]|€")

_GSM_ONE, _GSM_MANY = 160, 153
_UCS2_ONE, _UCS2_MANY = 70, 67


def segments(text: str) -> int:
    """The number of SMS that `text` takes; 1 for an empty one.

    Never less than for the same text with characters left out.
    """
    if stranger(text) is None:
        units = [2 if character in _EXTENSION else 1 for character in text]
        return _count(units, _GSM_ONE, _GSM_MANY)
    units = [2 if ord(character) > 0xFFFF else 1 for character in text]
    return _count(units, _UCS2_ONE, _UCS2_MANY)


def stranger(text: str) -> str | None:
    """The first character outside the 7-bit alphabet, which makes the whole text UCS-2; None if none is."""
    return next((each for each in text if each not in _BASIC and each not in _EXTENSION), None)


def _count(units: list[int], one: int, many: int) -> int:
    if sum(units) <= one:
        return 1
    count, left = 1, many
    for unit in units:
        if unit > left:
            count, left = count + 1, many
        left -= unit
    return count
