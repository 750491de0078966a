# ruff: noqa: N802 - methods have the names of the contract
"""The fake's side of a channel: leases within credit, acks fenced by token, receipts."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from opportune.v1 import delivery_service_pb2 as pb
from opportune.v1 import types_pb2
from opportune.v1.delivery_service_pb2_grpc import DeliveryServiceServicer

from opportune_client.testing.state import Delivery, Failure, State, abort


class Deliveries(DeliveryServiceServicer):
    """Hands out what the test laid out. A lease lasts until the test lets it expire."""

    def __init__(self, state: State, lease_seconds: float) -> None:
        self._state = state
        self._lease_us = int(lease_seconds * 1e6)

    def Attach(self, request_iterator: Any, context: Any) -> Iterator[pb.AttachResponse]:
        state = self._state
        state.enter("Attach", context)
        hello = next(request_iterator).hello
        session = _Session(state, hello.channel, hello.credit)
        threading.Thread(target=session.read, args=(request_iterator,), daemon=True).start()
        duration = Duration()
        duration.FromMicroseconds(self._lease_us)
        welcome = pb.AttachWelcome(lease_duration=duration, max_credit=state.max_credit)
        yield pb.AttachResponse(welcome=welcome)
        with state.changed:
            breaks = state.channel_breaks
        while True:
            with state.changed:
                state.changed.wait_for(lambda: session.has_news() or state.channel_breaks > breaks)
                if state.channel_breaks > breaks or state.stopping:
                    break
                if session.credit > state.max_credit:
                    abort(context, Failure("INVALID_ARGUMENT", "credit beyond the limit"))
                response = session.next()
            if response is None:
                return
            yield response
        abort(context, Failure("UNAVAILABLE", "the test breaks the stream"))

    def ListDeadLetters(
        self, request: pb.ListDeadLettersRequest, context: Any
    ) -> pb.ListDeadLettersResponse:
        self._state.enter("ListDeadLetters", context)
        start, size = int(request.page_token or 0), request.page_size or 50
        with self._state.changed:
            chosen = [
                letter
                for letter in reversed(self._state.dead_letters)
                if _selected(letter, request.channel, request.campaign)
            ]
        more = str(start + size) if len(chosen) > start + size else ""
        return pb.ListDeadLettersResponse(dead_letters=chosen[start : start + size], next_page_token=more)

    def RedriveDeadLetters(
        self, request: pb.RedriveDeadLettersRequest, context: Any
    ) -> pb.RedriveDeadLettersResponse:
        self._state.enter("RedriveDeadLetters", context)
        wanted = set(request.delivery_ids)
        if not (wanted or request.channel or request.campaign):
            violation = ("delivery_ids", "name delivery_ids, a channel or a campaign")
            abort(context, Failure("INVALID_ARGUMENT", violation[1], "INVALID_REQUEST", (violation,)))
        with self._state.changed:
            redriven = {
                letter.delivery_id
                for letter in self._state.dead_letters
                if (not wanted or letter.delivery_id in wanted)
                and _selected(letter, request.channel, request.campaign)
            }
            self._state.dead_letters[:] = [
                letter for letter in self._state.dead_letters if letter.delivery_id not in redriven
            ]
        return pb.RedriveDeadLettersResponse(
            redriven_count=len(redriven), skipped_delivery_ids=sorted(wanted - redriven)
        )


def _over(lease: pb.Lease) -> bool:
    """Whether its time is over: then it is not tried again."""
    return lease.HasField("expires_at") and lease.expires_at.ToMicroseconds() <= time.time_ns() // 1_000


def _selected(letter: pb.DeadLetter, channel: str, campaign: str) -> bool:
    return channel in ("", letter.channel) and campaign in ("", letter.campaign)


class _Session:
    """One attached client. Everything but `read` is called under the state's lock."""

    def __init__(self, state: State, channel: str, credit: int) -> None:
        self._state = state
        self._channel = channel
        self.credit = credit
        self._answers: deque[pb.AttachResponse] = deque()
        self._ended = False
        self._held: set[str] = set()  # tokens of this stream's leases: only their acks give credit back

    def has_news(self) -> bool:
        return bool(self._answers or self._ended or self._state.stopping or self._leasable())

    def next(self) -> pb.AttachResponse | None:
        """The next thing to say; None at the end."""
        if self._answers:
            return self._answers.popleft()
        delivery = None if self._ended else self._leasable()
        if delivery is None:
            return None
        self.credit -= 1
        delivery.lease.attempt += 1
        delivery.token = f"{delivery.lease.delivery_id}/{delivery.lease.attempt}"
        delivery.lease.lease_token = delivery.token
        self._held.add(delivery.token)
        lease = pb.Lease()
        lease.CopyFrom(delivery.lease)
        self._state.leases.append(lease)
        self._state.changed.notify_all()
        return pb.AttachResponse(lease=lease)

    def read(self, requests: Any) -> None:
        """Takes in what the client says, until it ends or the stream breaks."""
        try:
            for request in requests:
                with self._state.changed:
                    self._take(request)
                    self._state.changed.notify_all()
        except grpc.RpcError:  # the stream broke, which is nothing special here
            return
        finally:
            with self._state.changed:
                self._ended = True
                self._state.changed.notify_all()

    def _leasable(self) -> Delivery | None:
        if self.credit < 1:
            return None
        for delivery in self._state.deliveries:
            waits = delivery.lease.channel == self._channel and not delivery.token and not delivery.done
            if waits and not (delivery.lease.attempt and _over(delivery.lease)):
                return delivery
        return None

    def _take(self, request: pb.AttachRequest) -> None:
        kind = request.WhichOneof("message")
        if kind == "add_credit":
            self.credit += request.add_credit.amount
        elif kind == "ack":
            if request.ack.lease_token in self._held:
                self._held.remove(request.ack.lease_token)
                self.credit += 1
            self._answers.append(pb.AttachResponse(ack_result=self._acknowledge(request.ack)))
        elif kind == "receipt":
            self._answers.append(pb.AttachResponse(receipt_result=self._report(request.receipt)))

    def _acknowledge(self, ack: pb.Ack) -> pb.AckResult:
        result = pb.AckResult(delivery_id=ack.delivery_id, lease_token=ack.lease_token)
        found = [
            delivery
            for delivery in self._state.deliveries
            if delivery.lease.delivery_id == ack.delivery_id and delivery.lease.channel == self._channel
        ]
        if not found:
            result.status = pb.ACK_STATUS_UNKNOWN_DELIVERY
        elif ack.result == pb.DELIVERY_RESULT_UNSPECIFIED:
            result.status = pb.ACK_STATUS_INVALID
        elif found[0].done and found[0].lease.lease_token == ack.lease_token:
            result.status = pb.ACK_STATUS_ALREADY_KNOWN
        elif not found[0].token or found[0].token != ack.lease_token:
            result.status = pb.ACK_STATUS_STALE
        else:
            found[0].token = ""
            found[0].done = ack.result != pb.DELIVERY_RESULT_RETRY
            self._state.acks.append(ack)
            result.status = pb.ACK_STATUS_ACCEPTED
            result.delivery_state = {
                pb.DELIVERY_RESULT_SENT: types_pb2.DELIVERY_STATE_SENT,
                pb.DELIVERY_RESULT_RETRY: types_pb2.DELIVERY_STATE_PENDING,
            }.get(ack.result, types_pb2.DELIVERY_STATE_FAILED)
        return result

    def _report(self, receipt: pb.Receipt) -> pb.ReceiptResult:
        result = pb.ReceiptResult(
            decision_id=receipt.decision_id, kind=receipt.kind, receipt_id=receipt.receipt_id
        )
        decisions = {delivery.lease.decision_id for delivery in self._state.deliveries}
        if receipt.decision_id not in decisions:
            result.status = pb.RECEIPT_STATUS_UNKNOWN_DECISION
        elif receipt in self._state.receipts:
            result.status = pb.RECEIPT_STATUS_ALREADY_KNOWN
        else:
            self._state.receipts.append(receipt)
            result.status = pb.RECEIPT_STATUS_ACCEPTED
        return result
