"""Texts as short messages: what went in comes out, in as many parts as the rulebase counts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from opportune_client.sms_text import GSM, UCS2, Parts, parts_of, text_of
from opportune_rulebase.segments import segments

latin = st.text("abcXYZ 0189@£€{}[]~^|\\èéñüà§¿\n", max_size=700)
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


def put_together(parts: Parts) -> str:
    """As a handset does."""
    if not parts.joined:
        return text_of(parts.data[0], parts.data_coding)
    bodies: dict[int, bytes] = {}
    references = set()
    for data in parts.data:
        assert data[:3] == bytes([5, 0, 3])
        assert data[4] == len(parts.data)
        references.add(data[3])
        bodies[data[5]] = data[6:]
        assert len(data) - 6 <= (153 if parts.data_coding == GSM else 134)
    assert len(references) == 1
    # Each part is shown as it stands if another is lost, so each must be whole characters.
    return "".join(text_of(bodies[number], parts.data_coding) for number in sorted(bodies))


@given(latin | anything)
def test_what_goes_in_comes_out(text: str) -> None:
    assert put_together(parts_of(text, "key")) == text


@given(latin | anything)
def test_the_rulebase_counts_as_many_parts(text: str) -> None:
    assert len(parts_of(text, "key").data) == segments(text)


def test_one_alphabet_if_it_will_do() -> None:
    assert parts_of("Reply YES for 5 € {today}", "k").data_coding == GSM
    assert parts_of("回复 YES 办理", "k").data_coding == UCS2
    assert parts_of("a `tick`", "k").data_coding == UCS2


def test_the_same_message_has_the_same_reference() -> None:
    text = "x" * 200
    assert parts_of(text, "one") == parts_of(text, "one")
    assert parts_of(text, "one") != parts_of(text, "two")
