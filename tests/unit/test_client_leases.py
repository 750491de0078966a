"""A channel client's state: credit, repeated leases, unanswered acks, closing."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from opportune.v1 import delivery_service_pb2 as pb
from opportune_client import Failed, OutcomeKind, Sent
from opportune_client.conversation import ContractError
from opportune_client.leases import LeaseBook, Work


def welcome(max_credit: int = 100) -> pb.AttachResponse:
    return pb.AttachResponse(
        welcome=pb.AttachWelcome(lease_duration=Duration(seconds=30), max_credit=max_credit)
    )


def lease(number: int, attempt: int = 1) -> pb.AttachResponse:
    return pb.AttachResponse(
        lease=pb.Lease(
            delivery_id=f"d{number}",
            decision_id=f"decision-{number}",
            lease_token=f"t{number}.{attempt}",
            idempotency_key=f"k{number}",
            attempt=attempt,
        )
    )


def answered(ack: pb.Ack, status: pb.AckStatus.ValueType = pb.ACK_STATUS_ACCEPTED) -> pb.AttachResponse:
    return pb.AttachResponse(
        ack_result=pb.AckResult(delivery_id=ack.delivery_id, lease_token=ack.lease_token, status=status)
    )


def opened(credit: int = 4, max_credit: int = 100) -> LeaseBook:
    book = LeaseBook("sms", "test", credit)
    assert book.open().hello == pb.AttachHello(channel="sms", client_name="test")
    book.receive(welcome(max_credit), 0)
    return book


def said(book: LeaseBook) -> list[pb.AttachRequest]:
    requests = []
    while (request := book.take(0)) is not None:
        requests.append(request)
    return requests


def acks(requests: list[pb.AttachRequest]) -> list[pb.Ack]:
    return [request.ack for request in requests if request.HasField("ack")]


def credit(requests: list[pb.AttachRequest]) -> int:
    return sum(request.add_credit.amount for request in requests)


def one(works: object) -> Work:
    assert isinstance(works, tuple)
    (work,) = works
    assert isinstance(work, Work)
    return work


@pytest.mark.parametrize(("wanted", "limit", "asked"), [(4, 100, 4), (100, 4, 4)])
def test_credit_is_asked_for_within_the_limit(wanted: int, limit: int, asked: int) -> None:
    assert credit(said(opened(wanted, limit))) == asked


@pytest.mark.parametrize(
    ("handled", "result"),
    [
        (Sent("m1"), pb.DELIVERY_RESULT_SENT),
        (Failed("busy"), pb.DELIVERY_RESULT_RETRY),
        (Failed("barred", retryable=False), pb.DELIVERY_RESULT_FAILED),
    ],
)
def test_what_the_handler_says_is_acked(
    handled: Sent | Failed, result: pb.DeliveryResult.ValueType
) -> None:
    book = opened()
    said(book)
    book.finished(one(book.receive(lease(1), 0)), handled)
    (ack,) = acks(said(book))
    assert (ack.delivery_id, ack.lease_token, ack.result) == ("d1", "t1.1", result)


def test_a_message_is_with_the_handler_once_and_every_lease_of_it_acked() -> None:
    book = opened()
    work = one(book.receive(lease(1), 0))
    assert book.receive(lease(1, attempt=2), 0) == ()
    book.finished(work, Sent())
    assert [ack.lease_token for ack in acks(said(book))] == ["t1.1", "t1.2"]


def test_what_was_sent_is_answered_from_memory() -> None:
    book = opened()
    book.finished(one(book.receive(lease(1), 0)), Sent("m1"))
    said(book)
    assert book.receive(lease(1, attempt=2), 0) == ()
    (ack,) = acks(said(book))
    assert (ack.lease_token, ack.channel_message_id) == ("t1.2", "m1")
    assert book.counters.sent == 1


def test_what_may_be_tried_again_goes_to_the_handler_again() -> None:
    book = opened()
    book.finished(one(book.receive(lease(1), 0)), Failed())
    assert one(book.receive(lease(1, attempt=2), 0)).message.attempt == 2


def test_an_unsure_handler_keeps_its_slot_until_the_lease_is_over() -> None:
    book = opened(credit=4)
    work = one(book.receive(lease(1), 0))
    said(book)
    book.unsure(work)
    assert said(book) == []
    book.open()
    book.receive(welcome(), 0)
    assert credit(said(book)) == 3
    book.rested(work)
    requests = said(book)
    assert credit(requests) == 1
    assert [ack.result for ack in acks(requests)] == [pb.DELIVERY_RESULT_UNSPECIFIED]


def test_after_the_rest_an_ack_without_result_gives_the_credit_back() -> None:
    book = opened()
    work = one(book.receive(lease(1), 0))
    said(book)
    book.unsure(work)
    book.rested(work)
    requests = said(book)
    assert credit(requests) == 0
    assert [(ack.lease_token, ack.result) for ack in acks(requests)] == [
        ("t1.1", pb.DELIVERY_RESULT_UNSPECIFIED)
    ]


def test_after_a_break_acks_are_said_again_and_credit_is_what_is_free() -> None:
    book = opened(credit=4)
    done, running = one(book.receive(lease(1), 0)), one(book.receive(lease(2), 0))
    book.finished(done, Sent())
    said(book)
    book.open()
    assert book.take(0) is None
    book.receive(welcome(), 0)
    requests = said(book)
    assert [ack.lease_token for ack in acks(requests)] == ["t1.1"]
    assert credit(requests) == 4 - 1  # one is running
    book.receive(answered(acks(requests)[0]), 0)
    book.finished(running, Sent())
    requests = said(book)
    assert [ack.lease_token for ack in acks(requests)] == ["t2.1"]
    assert credit(requests) == 1  # its ack gives none back: another stream lent it


def test_a_late_ack_is_counted() -> None:
    book = opened()
    book.finished(one(book.receive(lease(1), 0)), Sent())
    (ack,) = acks(said(book))
    book.receive(answered(ack, pb.ACK_STATUS_STALE), 0)
    assert book.counters.stale == 1


def test_receipts_are_said_until_they_are_answered() -> None:
    book = opened()
    said(book)
    book.report("decision-1", OutcomeKind.DELIVERED, None, "", "")
    book.report("decision-1", OutcomeKind.DELIVERED, None, "", "")
    assert len(said(book)) == 1
    book.open()
    book.receive(welcome(), 0)
    (receipt,) = [request.receipt for request in said(book) if request.HasField("receipt")]
    result = pb.ReceiptResult(
        decision_id="decision-1", kind=receipt.kind, status=pb.RECEIPT_STATUS_UNKNOWN_DECISION
    )
    book.receive(pb.AttachResponse(receipt_result=result), 0)
    assert (book.unanswered_receipts, book.counters.reported, book.counters.refused) == (0, 1, 1)


def test_closing_waits_for_handlers_then_gives_the_rest_back() -> None:
    book = opened()
    running = one(book.receive(lease(1), 0))
    said(book)
    book.finish()
    assert book.receive(lease(2), 0) == ()
    assert said(book) == []  # an ack now would invite another lease
    assert not book.may_half_close
    book.finished(running, Sent())
    requests = acks(said(book))
    assert [ack.result for ack in requests] == [pb.DELIVERY_RESULT_SENT, pb.DELIVERY_RESULT_RETRY]
    assert book.may_half_close
    assert not book.settled
    for ack in requests:
        book.receive(answered(ack), 0)
    assert book.settled


def test_what_the_contract_forbids_is_noticed() -> None:
    book = LeaseBook("sms", "test", 1)
    book.open()
    with pytest.raises(ContractError):
        book.receive(lease(1), 0)
