"""The collector's state: when batches go, what fits, how they settle."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from opportune.v1 import event_service_pb2 as pb
from opportune.v1 import types_pb2
from opportune_client import Encoding, Event, RejectionReason
from opportune_client.conversation import ContractError
from opportune_client.outbox import MAX_BATCH_BYTES, Outbox

LINGER_US = 50_000


def event(number: int, **attributes: Any) -> Event:
    return Event(f"e{number}", "8613900000001", "power_on", datetime(2014, 6, 1, tzinfo=UTC), attributes)


def welcome(window: int = 2, size: int = 1_000) -> pb.StreamEventsResponse:
    return pb.StreamEventsResponse(
        welcome=pb.EventStreamWelcome(max_batches_in_flight=window, max_batch_size=size)
    )


def ack(number: int, *results: pb.EventBatchResult, window: int = 2) -> pb.StreamEventsResponse:
    return pb.StreamEventsResponse(
        ack=pb.EventStreamAck(acked_number=number, results=results, max_batches_in_flight=window)
    )


def opened(batch_size: int = 2, window: int = 2, size: int = 1_000) -> Outbox:
    outbox = Outbox("s", Encoding.JSON, 100, batch_size, LINGER_US)
    outbox.open()
    outbox.receive(welcome(window, size), 0)
    return outbox


def ids(request: pb.StreamEventsRequest | None) -> list[str]:
    assert request is not None
    return [event.id for event in request.batch.events]


def test_hello_names_source_and_encoding() -> None:
    hello = Outbox("s", Encoding.MSGPACK, 1, 1, 0).open().hello
    assert (hello.source, hello.attributes_encoding) == ("s", types_pb2.ATTRIBUTES_ENCODING_MSGPACK)


def test_nothing_goes_before_the_welcome() -> None:
    outbox = Outbox("s", Encoding.JSON, 10, 1, 0)
    outbox.put(event(1), 0)
    outbox.open()
    assert outbox.take(10**9) is None
    assert outbox.wake_us() is None


def test_a_full_batch_goes_at_once_and_the_rest_lingers() -> None:
    outbox = opened()
    for number in range(3):
        outbox.put(event(number), 7)
    assert ids(outbox.take(7)) == ["e0", "e1"]
    assert outbox.take(7) is None
    assert outbox.wake_us() == 7 + LINGER_US
    assert ids(outbox.take(7 + LINGER_US)) == ["e2"]


def test_flush_hurries_only_what_was_there() -> None:
    outbox = opened()
    outbox.put(event(1), 0)
    assert outbox.flush() == 1
    assert ids(outbox.take(0)) == ["e1"]
    outbox.put(event(2), 0)
    assert outbox.take(0) is None


def test_the_window_bounds_and_is_narrowed_by_acks() -> None:
    outbox = opened(batch_size=1)
    for number in range(5):
        outbox.put(event(number), 0)
    assert (ids(outbox.take(0)), ids(outbox.take(0))) == (["e0"], ["e1"])
    assert outbox.take(0) is None
    outbox.receive(ack(1, window=1), 0)
    assert outbox.take(0) is None
    outbox.receive(ack(2, window=1), 0)
    assert ids(outbox.take(0)) == ["e2"]


def test_the_service_bounds_the_batch() -> None:
    outbox = opened(batch_size=50, size=3)
    for number in range(4):
        outbox.put(event(number), 0)
    assert len(ids(outbox.take(0))) == 3


def test_a_batch_never_grows_too_large_for_a_message() -> None:
    outbox = opened(batch_size=100)
    number = 0
    while not outbox.put(event(number, text="x" * 16_000), 0) or number == 0:
        number += 1
    request = outbox.take(0)
    assert request is not None
    assert len(request.batch.events) > 1
    assert request.ByteSize() <= MAX_BATCH_BYTES


def test_rejections_come_with_their_events() -> None:
    outbox = opened()
    outbox.put(event(1), 0)
    outbox.put(event(2), 0)
    outbox.take(0)
    result = pb.EventBatchResult(number=1, accepted_count=1, ignored_attribute_count=4)
    result.rejections.add(index=1, reason=types_pb2.REJECTION_REASON_TOO_LATE, message="late")
    (rejected,) = outbox.receive(ack(1, result), 0)
    assert (rejected.event.id, rejected.reason, rejected.message) == (
        "e2",
        RejectionReason.TOO_LATE,
        "late",
    )
    counters = outbox.counters
    assert (counters.acked, counters.accepted, counters.rejected, counters.ignored_attributes) == (
        2,
        1,
        1,
        4,
    )


def test_a_reason_from_a_newer_service_is_unspecified() -> None:
    assert RejectionReason(4711) is RejectionReason.UNSPECIFIED


def test_numbers_start_anew_on_a_new_stream() -> None:
    outbox = opened(batch_size=1)
    for number in range(3):
        outbox.put(event(number), 0)
    outbox.take(0)
    outbox.take(0)
    outbox.receive(ack(1), 0)
    outbox.open()
    outbox.receive(welcome(), 0)
    request = outbox.take(0)
    assert ids(request) == ["e1"]
    assert request is not None
    assert request.batch.number == 1


@pytest.mark.parametrize("response", [ack(1), pb.StreamEventsResponse()])
def test_what_the_contract_forbids_is_noticed(response: pb.StreamEventsResponse) -> None:
    with pytest.raises(ContractError):
        opened().receive(response, 0)


def test_an_old_ack_changes_nothing() -> None:
    outbox = opened(batch_size=1)
    outbox.put(event(1), 0)
    outbox.take(0)
    outbox.receive(ack(1), 0)
    outbox.receive(ack(0), 0)
    assert outbox.counters.acked == 1


def test_closing_sends_what_is_left_and_takes_nothing_on() -> None:
    outbox = opened()
    outbox.put(event(1), 0)
    outbox.finish()
    with pytest.raises(RuntimeError, match="closed"):
        outbox.put(event(2), 0)
    assert not outbox.may_half_close
    assert ids(outbox.take(0)) == ["e1"]
    assert outbox.may_half_close
    assert not outbox.settled
    outbox.receive(ack(1), 0)
    assert outbox.settled


def test_an_event_that_cannot_be_encoded_is_not_taken() -> None:
    outbox = opened()
    with pytest.raises(TypeError):
        outbox.put(event(1, what=object()), 0)
    assert outbox.unacked == outbox.counters.queued == 0
