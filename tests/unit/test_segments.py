"""How many SMS a text takes: known texts, and a reading of the rule that tries every cut."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opportune_rulebase.segments import segments, stranger

# GSM 03.38, written out by its codes: the escape (0x1B) is no character.
BASIC = (
    "@£$¥èéùìòÇ\nØø\rÅå" "Δ_ΦΓΛΩΠΨΣΘΞÆæßÉ" " !\"#¤%&'()*+,-./" "0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNO" "PQRSTUVWXYZÄÖÑÜ§" "¿abcdefghijklmno" "pqrstuvwxyzäöñüà"
)  # fmt: skip
EXTENSION = "\f^{}\\[~]|€"


def test_the_alphabet_is_whole() -> None:
    assert len(set(BASIC)) == 127
    assert stranger(BASIC + EXTENSION) is None


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 1),
        ("a" * 160, 1),
        ("a" * 161, 2),
        ("a" * 306, 2),
        ("a" * 307, 3),
        ("€" * 80, 1),
        ("€" * 81, 2),
        # 153 is odd: one place of the first SMS stays empty rather than hold half a sign.
        ("€" * 152, 2),
        ("€" * 153, 3),
        ("a" + "€" * 152, 2),
        ("a" + "€" * 153, 3),
        ("中" * 70, 1),
        ("中" * 71, 2),
        ("中" * 134, 2),
        ("中" * 135, 3),
        ("a" * 70 + "中", 2),
        ("😀" * 35, 1),
        ("😀" * 36, 2),
        ("😀" * 66, 2),
        ("😀" * 67, 3),
        ("ç", 1),  # small c cedilla is not in the alphabet, the capital is
        ("ç" + "a" * 69, 1),
        ("ç" + "a" * 70, 2),
        ("Ç" + "a" * 159, 1),
    ],
)
def test_known_texts(text: str, count: int) -> None:
    assert segments(text) == count


def test_the_first_strange_character_is_named() -> None:
    assert stranger("Grüße, ç und 中") == "ç"


def naive(text: str) -> int:
    """The fewest SMS, by trying every place for every cut."""
    gsm = all(each in BASIC + EXTENSION for each in text)
    one, many = (160, 153) if gsm else (70, 67)
    units = [1 + (each in EXTENSION if gsm else len(each.encode("utf-16-le")) == 4) for each in text]
    if sum(units) <= one:
        return 1

    @cache
    def fewest(start: int) -> int:
        if start == len(units):
            return 0
        fitting = (end for end in range(start + 1, len(units) + 1) if sum(units[start:end]) <= many)
        return 1 + min(map(fewest, fitting))

    return fewest(0)


TEXTS = st.lists(
    st.tuples(st.sampled_from(["a", "€", "中", "😀", "[", "ü", "\n"]), st.integers(1, 90)), max_size=3
).map(lambda runs: "".join(character * count for character, count in runs))


@given(TEXTS)
def test_it_is_the_fewest_that_hold_the_text(text: str) -> None:
    assert segments(text) == naive(text)


@given(TEXTS, st.data())
def test_leaving_characters_out_never_takes_more(text: str, data: st.DataObject) -> None:
    """So the literal part of a template alone says what it takes at least."""
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    assert segments(text[:start] + text[end:]) <= segments(text)
