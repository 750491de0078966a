"""Encoded states: what is read back is what was written, whatever is in it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opportune_service.core.state import (
    Entry,
    Given,
    Packing,
    PatternState,
    Seed,
    Series,
    SubscriberState,
    decode_state,
    encode_state,
    head_of,
)
from xxhash import xxh3_64_hexdigest

NUMBERS = st.one_of(
    st.sampled_from(
        [0, 1, -(10**9), 2**32 - 1, 2**32, 2**48 - 1, 2**48, 2**52 - 1, 2**52, 2**63, 2**64 - 1]
    ),
    st.integers(-300, 300),
    st.integers(1_795_147_200, 1_795_150_000).map(lambda seconds: seconds * 1_000_000),
    st.integers(1_795_147_200_000_000, 1_795_147_300_000_000),
    st.integers(0, 2**64 - 1),
)
TEXT = st.text(max_size=5)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.floats(allow_nan=False), TEXT)
ATTRIBUTES = st.none() | st.dictionaries(TEXT, SCALARS, min_size=1, max_size=3)
NESTED = st.recursive(SCALARS | ATTRIBUTES, lambda inner: st.lists(inner, max_size=3), max_leaves=6)
TIPS = st.lists(NESTED, max_size=3).map(tuple)
AMOUNTS = st.one_of(
    st.lists(NUMBERS, max_size=4),
    st.lists(st.floats(allow_nan=False), max_size=4),
    st.lists(SCALARS, max_size=4),
)
SERIES = st.builds(Series, st.lists(NUMBERS, max_size=4), AMOUNTS)
ENTRIES = st.builds(Entry, NUMBERS, NUMBERS, NESTED, ATTRIBUTES, TEXT, NUMBERS)
SEEDS = st.builds(Seed, NUMBERS, st.lists(NUMBERS, max_size=2), st.lists(NUMBERS, max_size=2))
GIVEN = st.lists(st.builds(Given, NUMBERS, NUMBERS, NUMBERS, NUMBERS), max_size=2).map(tuple)


@st.composite
def patterns(draw: st.DrawFn) -> PatternState:
    base = draw(TIPS)
    tip = base if draw(st.booleans()) else draw(TIPS)
    recent = draw(st.lists(ENTRIES, max_size=3))
    return PatternState(base, tip, recent, draw(GIVEN), draw(st.none() | SERIES), draw(NUMBERS))


STATES = st.builds(
    SubscriberState,
    position=st.integers(0, 2**40),
    known=st.booleans(),
    context=st.dictionaries(TEXT, SCALARS, max_size=3),
    as_of_us=st.dictionaries(TEXT, NUMBERS, max_size=3),
    seen=st.dictionaries(NUMBERS, NUMBERS, max_size=5),
    series=st.dictionaries(TEXT, SERIES, max_size=4),
    patterns=st.dictionaries(TEXT, patterns(), max_size=4),
    cells=st.none()
    | st.lists(st.tuples(NUMBERS, TEXT), max_size=3).map(
        lambda pairs: Series([at for at, _ in pairs], [cell for _, cell in pairs])
    ),
    imei=TEXT,
    handset=st.none() | patterns(),
    latest_us=NUMBERS,
    replaced_us=NUMBERS,
    filled=NUMBERS,
    seeds=st.none() | st.dictionaries(TEXT, SEEDS, max_size=2),
)


def plain(state: SubscriberState) -> Any:
    """What is in it, with types: 1, 1.0 and true are equal in Python."""
    return repr(msgspec.to_builtins(state, builtin_types=(bytes,)))


@settings(max_examples=100)
@given(STATES)
@example(SubscriberState())
def test_what_is_read_back_is_what_was_written(state: SubscriberState) -> None:
    data = encode_state(state)
    read_back = decode_state(data)
    assert read_back == state
    assert plain(read_back) == plain(state)
    assert encode_state(read_back) == data
    head = head_of(data)
    assert (head.position, head.due_us, head.known, head.context) == (
        state.position,
        state.due_us,
        state.known,
        state.context,
    )


@settings(max_examples=30)
@given(st.lists(STATES, min_size=1, max_size=4))
def test_what_was_packed_with_an_example_can_always_be_unpacked(states: list[SubscriberState]) -> None:
    packing = Packing()
    packed = []
    for state in states:
        packed.append(packing.encode(state))
        packing.prime(states)
        packed.append(packing.encode(state))
    for number, data in enumerate(packed):
        state = states[number // 2]
        assert plain(packing.decode(data)) == plain(state)
        assert packing.plain(data) == encode_state(state)
        assert head_of(data) == head_of(encode_state(state))


def test_an_example_makes_states_small() -> None:
    states = [
        SubscriberState(series={xxh3_64_hexdigest(bytes([n])): Series([at * n], []) for n in range(40)})
        for at in (10**15, 10**15 + 7, 10**15 + 11)
    ]
    packing = Packing()
    packing.prime(states[:2])
    assert len(packing.encode(states[2])) < len(encode_state(states[2])) / 2


def test_what_was_packed_with_an_example_is_unreadable_without_it() -> None:
    packing = Packing()
    packing.prime([SubscriberState(imei="35", series={"k": Series([1], [2])})])
    with pytest.raises(msgspec.DecodeError):
        decode_state(packing.encode(SubscriberState(series={"k": Series([1], [2])})))


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\x96\x00\x00\xc3\x80\x00\xc4\x01x", b"\x96\x00\x00\xc3\x80\x09\xc4\x01x"]
)
def test_what_is_no_state_is_refused(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_state(data)


def test_a_cut_or_changed_state_is_refused_or_is_one() -> None:
    data = encode_state(SubscriberState(series={"k": Series([1, 2], [3, 4])}, seen={5: 6}, latest_us=7))
    for place in range(len(data)):
        for changed in (data[:place], data[:place] + b"\xff" + data[place + 1 :]):
            with suppress(msgspec.DecodeError):
                assert isinstance(decode_state(changed), SubscriberState)
