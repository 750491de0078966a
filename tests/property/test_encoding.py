"""Encoded states: what is read back is what was written, whatever is in it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opportune_service.core.events import MAX_LATENESS_US, MAX_SKEW_US
from opportune_service.core.packing import Packing
from opportune_service.core.state import (
    Entry,
    Given,
    PatternState,
    Seed,
    Series,
    SubscriberState,
    decode_plain,
    decode_state,
    encode_plain,
    encode_state,
    head_of,
    pack_plain,
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
TIPS = st.lists(SCALARS | st.lists(NESTED, max_size=3).map(tuple), max_size=3).map(tuple)
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


@settings(max_examples=100)
@given(STATES)
@example(SubscriberState())
def test_plain_states_are_read_back_and_packed(state: SubscriberState) -> None:
    head, body = encode_plain(state, state.due_us)
    value = memoryview(head + body)
    read_back = decode_plain(value[: len(head)], value[len(head) :])
    assert plain(read_back) == plain(state)
    assert pack_plain(head, body) == encode_state(state)
    assert head_of(head) == head_of(encode_state(state))


MARKED = SubscriberState(
    # What marks a large number, by chance: as a small one, in text, at the end, and before less than eight
    # bytes; and what a template is made of.
    imei="what is far from any mark: 100%, %b%%, \u03cf",
    latest_us=0xCF,
    series={"k": Series([0xCF, 0xCFCF, 0xCFCF_CFCF, 0xCFCF_CFCF_CFCF_CFCF], ["\u03cf", 0xCF, "%"])},
    seen={2**64 - 1: 0, 0xCF: 2**64 - 1},
    seeds={"\u03cf": Seed(0xCFCF, [0xCF], [0xCFCF, 0xCF])},
)


@settings(max_examples=100)
@given(st.lists(STATES, min_size=1, max_size=4))
@example([SubscriberState(), MARKED])
@example([SubscriberState(latest_us=2**64 - 1), SubscriberState(latest_us=2**45, filled=2**63)])
def test_what_was_packed_with_an_example_can_always_be_unpacked(states: list[SubscriberState]) -> None:
    packing = Packing()
    packed = []
    for state in states:
        packed.append(packing.encode(state))
        packing.prime(states)
        packed.append(packing.encode(state))
    for number, data in enumerate(packed):
        expected = plain(sorted_by_key(states[number // 2]))
        assert plain(sorted_by_key(packing.decode(data))) == expected
        assert plain(sorted_by_key(decode_state(packing.plain(data)))) == expected
        assert head_of(data) == head_of(encode_state(states[number // 2]))


def sorted_by_key(state: SubscriberState) -> SubscriberState:
    """Metrics and patterns in an order that does not tell how they came."""
    series, patterns = sorted(state.series.items()), sorted(state.patterns.items())
    return msgspec.structs.replace(state, series=dict(series), patterns=dict(patterns))


@pytest.mark.parametrize("count", [256, 257, 65_536, 65_537])  # what one byte tells apart, what two do
def test_there_may_be_many_large_numbers(count: int) -> None:
    packing = Packing()
    packing.prime([SubscriberState()])
    state = SubscriberState(series={"k": Series([10**15 - 7**9 * n for n in range(count)])})
    state.latest_us = 10**15
    same = packing.decode(packing.encode(state)) == state
    assert same  # by itself: nobody wants to read the difference


def test_an_example_makes_states_small() -> None:
    states = [
        SubscriberState(series={xxh3_64_hexdigest(bytes([n])): Series([at * n], []) for n in range(40)})
        for at in (10**15, 10**15 + 7, 10**15 + 11)
    ]
    packing = Packing()
    packing.prime(states[:2])
    assert len(packing.encode(states[2])) < len(encode_state(states[2])) / 2


def test_a_digest_and_an_instant_are_kept_once() -> None:
    digests = [int(xxh3_64_hexdigest(bytes([n])), 16) for n in range(40)]
    packing = Packing()
    packing.prime([SubscriberState()])

    def each(unit_us: int, patterns: int) -> float:
        entries = [Entry((10**9 + 97 * n) * unit_us, digest >> 2) for n, digest in enumerate(digests)]
        kept = {str(n): PatternState(recent=entries) for n in range(patterns)}
        until_us = [entry.at_us + MAX_LATENESS_US + MAX_SKEW_US for entry in entries]
        seen = dict(zip(digests, until_us, strict=True))
        state = SubscriberState(latest_us=entries[-1].at_us, seen=seen, patterns=kept)
        return len(packing.encode(state)) / len(digests)

    alone = each(10**6, 0)
    assert 8 < alone < 14  # the digest, and somewhat for the instant and where both are
    assert each(10**6, 1) - alone < 3  # patterns have the same, in their way
    assert each(10**6, 4) - each(10**6, 1) < 1
    assert abs(each(10**3, 4) - each(10**6, 4)) < 0.2  # any unit will do


def test_what_was_packed_with_an_example_is_unreadable_without_it() -> None:
    packing, other = Packing(), Packing()
    packing.prime([SubscriberState(imei="35", series={"k": Series([1], [2])})])
    other.prime([SubscriberState()])
    data = packing.encode(SubscriberState(series={"k": Series([1], [2])}))
    for decode in (decode_state, Packing().decode, other.decode):
        with pytest.raises(msgspec.DecodeError):
            decode(data)


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
