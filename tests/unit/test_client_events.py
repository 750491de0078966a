"""Events, instants and attributes on their way to the wire; nobody's number on its way to a log."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from opportune_client import Encoding, Event, Message, SubscriberRecord, from_timestamp, to_timestamp
from opportune_client.events import MAX_EVENT_BYTES, encode_attributes, encode_event
from opportune_client.leases import masked

NUMBER = "8613900000001"
NOON = datetime(2014, 6, 1, 12, 0, 0, 123_457, tzinfo=timezone(timedelta(hours=8)))


def event(**changes: Any) -> Event:
    given: dict[str, Any] = {"id": "1", "subscriber_id": NUMBER, "type": "sms_sent", "occurred_at": NOON}
    return Event(**(given | changes))


@pytest.mark.parametrize("instant", [NOON, datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC)])
def test_instants_are_exact(instant: datetime) -> None:
    assert from_timestamp(to_timestamp(instant)) == instant


def test_an_instant_needs_a_time_zone() -> None:
    with pytest.raises(ValueError, match="time zone"):
        encode_event(event(occurred_at=datetime(2014, 6, 1)), Encoding.JSON)


@pytest.mark.parametrize("encoding", list(Encoding))
def test_attributes_mean_the_same_in_both_encodings(encoding: Encoding) -> None:
    attributes = MappingProxyType(
        {
            "n": 2**60,
            "x": 0.5,
            "ok": True,
            "none": None,
            "at": NOON,
            "tags": ["猫"],
            "map": {"a": {"at": NOON}},
        }
    )
    decode = msgspec.json.decode if encoding is Encoding.JSON else msgspec.msgpack.decode
    text = json.loads(msgspec.json.encode(NOON))
    assert decode(encode_attributes(attributes, encoding)) == {
        **attributes,
        "at": text,
        "map": {"a": {"at": text}},
    }


@pytest.mark.parametrize("encoding", list(Encoding))
def test_what_cannot_be_encoded_is_refused(encoding: Encoding) -> None:
    with pytest.raises(TypeError, match="object"):
        encode_attributes({"what": object()}, encoding)


def test_no_attributes_are_no_bytes() -> None:
    assert encode_event(event(), Encoding.JSON).attributes == b""


def test_an_event_that_would_break_the_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="16 KiB"):
        encode_event(event(attributes={"text": "x" * MAX_EVENT_BYTES}), Encoding.JSON)


def test_numbers_are_not_shown() -> None:
    imei = "490154203237518"
    message = Message(
        "d", "k", NUMBER, f"Dear {NUMBER}", "sms", "campaign", "", "product", 1, expires_at=None, test=False
    )
    shown = repr(
        [event(imei=imei, attributes={"peer": NUMBER}), SubscriberRecord(NUMBER, {"x": NUMBER}), message]
    )
    assert NUMBER not in shown
    assert imei not in shown


def test_details_are_masked_and_bounded() -> None:
    assert NUMBER not in masked(f"no route to {NUMBER}")
    assert masked("error 503") == "error 503"
    assert len(masked("x " * 1_000)) == 500
