"""Erasure of one number out of rows of the log and out of others' states. What must not change does not."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opportune_service.core.backfill import Fill
from opportune_service.core.erase import Erasing
from opportune_service.core.events import ContextRecord, Due, Encoding, Event, ImportMode
from opportune_service.core.state import Series, SubscriberState, decode_state, encode_state
from support.rulebases import NOON_US

NUMBER, OTHER, STAND_IN = "8613800000001", "8613800000002", "012345678901234"
ERASING = Erasing(NUMBER, STAND_IN)


def call(event_id: str, who: str, attributes: Any, encoding: Encoding = Encoding.JSON) -> Event:
    encode = msgspec.json.encode if encoding is Encoding.JSON else msgspec.msgpack.encode
    return Event(event_id, who, "call_made", NOON_US, encode(attributes), encoding=encoding)


def test_own_items_go_and_all_others_stay_as_they_are() -> None:
    own = [
        call("1", NUMBER, {}),
        ContextRecord(NUMBER, 1, ImportMode.PATCH, {"age": 30}),
        Due(NUMBER, "birthday", NOON_US),
        Fill(NUMBER, 1, {}),
    ]
    others = [
        call("2", OTHER, {"to": f"{NUMBER}9", "from": f"9{NUMBER}", "n": 1.5}),
        ContextRecord(OTHER, 1, ImportMode.PATCH, {"born": datetime(1990, 1, 1, tzinfo=UTC)}),
        Due(OTHER, "birthday", NOON_US),
    ]
    left, named = ERASING.items([*own, *others])
    assert left == others
    assert named == set()


@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize("said", [NUMBER, f"+{NUMBER}", f"call {NUMBER}!", int(NUMBER), [{"x": NUMBER}]])
def test_where_others_name_the_number_the_stand_in_takes_its_place(encoding: Encoding, said: Any) -> None:
    (left,), named = ERASING.items([call(f"{NUMBER}-7", OTHER, {"to": said, "size": 7}, encoding)])
    assert named == {OTHER}
    assert isinstance(left, Event)
    assert left.id == f"{STAND_IN}-7"
    raw = msgspec.msgpack.encode(left)
    assert NUMBER.encode() not in raw
    assert msgspec.msgpack.encode(int(NUMBER)) not in raw
    decode = msgspec.json.decode if encoding is Encoding.JSON else msgspec.msgpack.decode
    assert decode(left.attributes)["size"] == 7


@pytest.mark.parametrize(
    ("said", "encoding"),
    [
        (b'{"to":"86\\u00313800000001","size":1.50}', Encoding.JSON),
        (
            b"\x82\xa2to\xd3" + struct.pack(">q", int(NUMBER)) + b"\xa4size\xcb" + struct.pack(">d", 1.5),
            "msgpack",
        ),
        (
            b"\x82\xa2to\xcb" + struct.pack(">d", int(NUMBER)) + b"\xa4size\xcb" + struct.pack(">d", 1.5),
            "msgpack",
        ),
        (b"\x82\xa2to\xc4\x0d" + NUMBER.encode() + b"\xa4size\xcb" + struct.pack(">d", 1.5), "msgpack"),
        (b"\x82\xa2to\xc7\x0d\x05" + NUMBER.encode() + b"\xa4size\xcb" + struct.pack(">d", 1.5), "msgpack"),
        (b'{"to":' + b"[" * 500 + b'"%s"' % NUMBER.encode() + b"]" * 500 + b',"size":1.50}', Encoding.JSON),
    ],
    ids=["escaped", "int64", "double", "bytes", "extension", "deep"],
)
def test_the_number_is_found_however_it_is_written(said: bytes, encoding: str) -> None:
    event = Event("1", OTHER, "call_made", NOON_US, said, encoding=Encoding(encoding))
    assert ERASING.may_name(msgspec.msgpack.encode(event))
    (left,), named = ERASING.items([event])
    assert named == {OTHER}
    assert isinstance(left, Event)
    decode = msgspec.json.decode if encoding == "json" else msgspec.msgpack.decode
    attributes = decode(left.attributes)
    assert NUMBER not in str(attributes)
    assert attributes["size"] == 1.5


def test_context_of_others_and_what_backfills_found() -> None:
    record = ContextRecord(OTHER, 1, ImportMode.PATCH, {"family": [NUMBER], "age": 3})
    fill = Fill(OTHER, 1, {"k": Series([1, 1, 2], ["1", NUMBER, NUMBER])})
    left, named = ERASING.items([record, fill])
    assert named == {OTHER}
    assert left == [
        ContextRecord(OTHER, 1, ImportMode.PATCH, {"family": [STAND_IN], "age": 3}),
        Fill(OTHER, 1, {"k": Series([1, 1, 2], [STAND_IN, "1", STAND_IN])}),
    ]


def test_short_numbers_are_not_taken_for_figures() -> None:
    erasing = Erasing("10086", STAND_IN)
    (left,), named = erasing.items([call("1", OTHER, {"size": 10086, "to": "10086"})])
    assert named == {OTHER}
    assert isinstance(left, Event)
    assert msgspec.json.decode(left.attributes) == {"size": 10086, "to": STAND_IN}


@given(st.lists(st.sampled_from([NUMBER, OTHER, "0", "9", "86"]), max_size=20))
def test_a_state_stays_sorted_and_counts_as_many(said: list[str]) -> None:
    pairs = sorted((at // 3, each) for at, each in enumerate(said))
    state = SubscriberState(series={"k": Series([at for at, _ in pairs], [each for _, each in pairs])})
    before = encode_state(state)
    without = ERASING.state(state)
    assert encode_state(state) == before, "what is live is not touched"
    if NUMBER not in said:
        assert without is None
        return
    assert without is not None
    series = without.series["k"]
    after = list(zip(series.at, series.amount, strict=True))
    assert after == sorted(after)
    assert sorted((at, NUMBER if each == STAND_IN else each) for at, each in after) == pairs
    assert not ERASING.may_name(msgspec.msgpack.encode(without))


def test_a_state_keeps_all_else() -> None:
    born = datetime(1990, 1, 1, tzinfo=UTC)
    state = SubscriberState(
        position=7,
        known=True,
        context={"family": NUMBER, "born": born, "consents": {"channel/sms": False}},
        as_of_us={"family": 5},
        seen={2**63 + 5: NOON_US},
        latest_us=NOON_US,
        imei="35000000000001",
    )
    without = ERASING.state(state)
    assert without is not None
    assert without.context.pop("family") == STAND_IN
    state.context.pop("family")
    assert without == state
    assert decode_state(encode_state(without)) == state
