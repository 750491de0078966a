"""What a channel client holds: messages being sent, acks and receipts not answered yet. Pure."""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, cast

from opportune.v1 import delivery_service_pb2 as pb
from opportune.v1 import types_pb2

from opportune_client.conversation import ContractError
from opportune_client.times import from_timestamp, to_timestamp
from opportune_client.words import OutcomeKind

REMEMBERED: Final = 10_000
"""How many finished messages are remembered, so that a repeated lease is answered and not sent again."""

MAX_DETAIL: Final = 500
_DIGITS: Final = re.compile(r"\d{7,}")


@dataclass(frozen=True, slots=True)
class Message:
    """Something to send, for a channel's handler.

    `idempotency_key` is the same for every attempt: a gateway that sees it again must not send again.
    From `expires_at` on it must not be sent. Its `repr` shows nobody's number.
    """

    decision_id: str
    idempotency_key: str
    subscriber_id: str = field(repr=False)
    content: str = field(repr=False)
    channel: str
    campaign: str
    campaign_label: str
    product: str
    attempt: int
    expires_at: datetime | None
    test: bool


@dataclass(frozen=True, slots=True)
class Sent:
    """It went out. `channel_message_id` is the channel's own name for it, for operators."""

    channel_message_id: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """It certainly did not go out. `retryable`: another attempt may succeed. `detail` is for operators;
    long runs of digits in it are masked."""

    detail: str = ""
    retryable: bool = True


Handled = Sent | Failed


@dataclass(slots=True)
class ChannelCounters:
    """What became of the messages so far. `unknown`: the handler did not say. `stale`: the lease was over
    before the answer came. `reported` and `refused` count receipts."""

    leases: int = 0
    sent: int = 0
    retried: int = 0
    failed: int = 0
    unknown: int = 0
    stale: int = 0
    reported: int = 0
    refused: int = 0
    streams: int = 0


@dataclass(slots=True)
class Work:
    """A message in the handler's hands, the leases it came under, oldest first, and the number of the
    stream that began it."""

    message: Message
    leases: list[pb.Lease]
    stream: int


_AckKey = tuple[str, str]
_ReceiptKey = tuple[str, int, str]


@dataclass(slots=True)
class LeaseBook:
    """A channel client's side of the stream.

    A message goes to the handler once at a time. What was sent, or failed for good, is remembered by
    its idempotency key: a lease that comes again is answered from memory. Acks and receipts are said
    again on each new stream until they are answered. Never more than `credit` messages are held.

    Credit belongs to a stream: a lease takes one, and its ack gives one back if it comes on the same
    stream. Work that an earlier stream began takes a slot too, so the new stream is given less credit
    until that work is done.
    """

    channel: str
    client_name: str
    credit: int
    counters: ChannelCounters = field(default_factory=ChannelCounters)
    lease_us: int = 0
    _running: dict[str, Work] = field(default_factory=dict)
    _resting: int = 0  # slots taken until their lease is over, because nobody knows what happened
    _finished: OrderedDict[str, Handled] = field(default_factory=OrderedDict)
    _acks: OrderedDict[_AckKey, pb.Ack] = field(default_factory=OrderedDict)
    _receipts: OrderedDict[_ReceiptKey, pb.Receipt] = field(default_factory=OrderedDict)
    _unwanted: list[pb.Lease] = field(default_factory=list)
    _to_say: deque[pb.AttachRequest] = field(default_factory=deque)
    _welcome: bool = False
    _closing: bool = False
    _progress: int = 0

    @property
    def progress(self) -> int:
        """Leases taken and answers received so far."""
        return self._progress

    @property
    def unanswered_receipts(self) -> int:
        """Receipts that the service has not answered."""
        return len(self._receipts)

    @property
    def may_half_close(self) -> bool:
        """Whether the handler is done and everything was said."""
        return self._closing and not self._running and not self._unwanted and not self._to_say

    @property
    def settled(self) -> bool:
        """Whether the handler is done and everything was answered."""
        return self.may_half_close and not self._acks and not self._receipts

    def open(self) -> pb.AttachRequest:
        """A new stream begins, at first without credit: how much it may have is in the welcome."""
        self._welcome = False
        self._to_say.clear()
        self._unwanted.clear()
        self.counters.streams += 1
        hello = pb.AttachHello(channel=self.channel, client_name=self.client_name, credit=0)
        return pb.AttachRequest(hello=hello)

    def take(self, now_us: int) -> pb.AttachRequest | None:
        """The next credit, ack or receipt."""
        return self._to_say.popleft() if self._to_say and self._welcome else None

    def wake_us(self) -> int | None:
        """Nothing here waits for a time."""
        return None

    def receive(self, response: pb.AttachResponse, now_us: int) -> Sequence[Work]:
        """Takes an answer or a lease in; what the handler has to do."""
        kind = response.WhichOneof("message")
        if kind == "welcome":
            self._start(response.welcome)
            return ()
        if kind is None or not self._welcome:
            raise ContractError("the service sent something else than a welcome first")
        self._progress += 1
        if kind == "lease":
            return self._offer(response.lease)
        if kind == "ack_result":
            self._acks.pop((response.ack_result.delivery_id, response.ack_result.lease_token), None)
            self.counters.stale += response.ack_result.status == pb.ACK_STATUS_STALE
        else:
            self._receipt_answered(response.receipt_result)
        return ()

    def finished(self, work: Work, handled: Handled) -> None:
        """The handler is done: ack each lease that the message came under."""
        key = work.message.idempotency_key
        del self._running[key]
        if isinstance(handled, Sent):
            self.counters.sent += 1
        elif handled.retryable:
            self.counters.retried += 1
        else:
            self.counters.failed += 1
        if isinstance(handled, Sent) or not handled.retryable:
            self._finished[key] = handled
            if len(self._finished) > REMEMBERED:
                self._finished.popitem(last=False)
        for lease in work.leases:
            self._acknowledge(lease, handled)
        self._free_slot(work)
        self._refuse_unwanted()

    def unsure(self, work: Work) -> None:
        """The handler did not say what happened: no ack, and the slot rests until the lease is over."""
        del self._running[work.message.idempotency_key]
        self.counters.unknown += 1
        self._resting += 1
        self._refuse_unwanted()

    def rested(self, work: Work) -> None:
        """The lease of unsure work is over: its slot is free again.

        An ack without a result is refused and says nothing about the message, but gives credit back.
        """
        self._resting -= 1
        for lease in work.leases:
            ack = pb.Ack(delivery_id=lease.delivery_id, lease_token=lease.lease_token)
            self._say(pb.AttachRequest(ack=ack))
        self._free_slot(work)

    def report(
        self,
        decision_id: str,
        kind: OutcomeKind,
        occurred_at: datetime | None,
        detail: str,
        receipt_id: str,
    ) -> None:
        """Says a receipt until it is answered. The same receipt twice is one."""
        receipt = pb.Receipt(
            decision_id=decision_id,
            kind=cast("types_pb2.OutcomeKind.ValueType", int(kind)),
            occurred_at=None if occurred_at is None else to_timestamp(occurred_at),
            detail=masked(detail),
            receipt_id=receipt_id,
        )
        key = (decision_id, int(kind), receipt_id)
        if key not in self._receipts:
            self._receipts[key] = receipt
            self._say(pb.AttachRequest(receipt=receipt))

    def finish(self) -> None:
        """No lease is wanted any more; what the handler holds is still answered."""
        self._closing = True
        self._refuse_unwanted()

    def _start(self, welcome: pb.AttachWelcome) -> None:
        self._welcome = True
        self.lease_us = welcome.lease_duration.ToMicroseconds()
        free = min(self.credit, welcome.max_credit) - len(self._running) - self._resting
        for ack in self._acks.values():
            self._to_say.append(pb.AttachRequest(ack=ack))
        for receipt in self._receipts.values():
            self._to_say.append(pb.AttachRequest(receipt=receipt))
        if free > 0 and not self._closing:
            self._to_say.append(pb.AttachRequest(add_credit=pb.AddCredit(amount=free)))

    def _offer(self, lease: pb.Lease) -> Sequence[Work]:
        self.counters.leases += 1
        if (running := self._running.get(lease.idempotency_key)) is not None:
            running.leases.append(lease)
        elif (handled := self._finished.get(lease.idempotency_key)) is not None:
            self._acknowledge(lease, handled)
        elif self._closing:
            self._unwanted.append(lease)
            self._refuse_unwanted()
        else:
            work = Work(_message(lease), [lease], self.counters.streams)
            self._running[lease.idempotency_key] = work
            return (work,)
        return ()

    def _free_slot(self, work: Work) -> None:
        """Work of an earlier stream is done: now its slot is worth credit on this one."""
        if work.stream != self.counters.streams and self._welcome and not self._closing:
            self._to_say.append(pb.AttachRequest(add_credit=pb.AddCredit(amount=1)))

    def _refuse_unwanted(self) -> None:
        """Gives back what came while closing, once nothing else is held: each ack invites another lease."""
        if self._closing and not self._running:
            for lease in self._unwanted:
                self._acknowledge(lease, Failed("the client is closing"))
            self._unwanted.clear()

    def _acknowledge(self, lease: pb.Lease, handled: Handled) -> None:
        ack = pb.Ack(delivery_id=lease.delivery_id, lease_token=lease.lease_token)
        if isinstance(handled, Sent):
            ack.result = pb.DELIVERY_RESULT_SENT
            ack.channel_message_id = handled.channel_message_id[:128]
        else:
            ack.result = pb.DELIVERY_RESULT_RETRY if handled.retryable else pb.DELIVERY_RESULT_FAILED
            ack.detail = masked(handled.detail)
        self._acks[lease.delivery_id, lease.lease_token] = ack
        self._say(pb.AttachRequest(ack=ack))

    def _say(self, request: pb.AttachRequest) -> None:
        if self._welcome:  # otherwise it is said after the welcome, with all that is not answered
            self._to_say.append(request)

    def _receipt_answered(self, result: pb.ReceiptResult) -> None:
        known = self._receipts.pop((result.decision_id, int(result.kind), result.receipt_id), None)
        if known is not None:
            self.counters.reported += 1
            self.counters.refused += result.status in {
                pb.RECEIPT_STATUS_UNKNOWN_DECISION,
                pb.RECEIPT_STATUS_INVALID,
            }


def masked(detail: str) -> str:
    """Words for operators, within the contract's bound and without anything that may be a number."""
    return _DIGITS.sub("…", detail)[:MAX_DETAIL]


def _message(lease: pb.Lease) -> Message:
    return Message(
        decision_id=lease.decision_id,
        idempotency_key=lease.idempotency_key,
        subscriber_id=lease.subscriber_id,
        content=lease.content,
        channel=lease.channel,
        campaign=lease.campaign,
        campaign_label=lease.campaign_label,
        product=lease.product,
        attempt=lease.attempt,
        expires_at=from_timestamp(lease.expires_at) if lease.HasField("expires_at") else None,
        test=lease.test,
    )
