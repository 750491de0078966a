"""What channel clients do: take decisions, send them, say what became of them; and dead letters."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence

from google.protobuf.duration_pb2 import Duration
from opportune.v1 import delivery_service_pb2 as pb

from opportune_service.adapters.grpc.draining import Draining, read_all
from opportune_service.adapters.grpc.handlers import Context
from opportune_service.adapters.grpc.roles import caller_of
from opportune_service.adapters.grpc.use_cases import UseCases
from opportune_service.adapters.grpc.words import (
    OUTCOMES,
    check_length,
    page_size,
    past_time,
    read_cursor,
    state_number,
    timestamp,
)
from opportune_service.app.clearance import MAX_ATTEMPTS
from opportune_service.app.dead_letters import Redrive
from opportune_service.app.deliver import Reported, Settled, Standing
from opportune_service.app.errors import InvalidRequestError
from opportune_service.app.records import DeadLetter, DeliveryState, Lease, Settlement
from opportune_service.core.admit import mask

log = logging.getLogger(__name__)

MAX_CREDIT = 1_000
MAX_REDRIVEN = 1_000
_MAX_DETAIL = 500
_LONGEST_US = 366 * 86_400_000_000
_LEASES_AT_ONCE = 100
_LOOK_AGAIN_SECONDS = 1.0
"""Leases run out and retries fall due without an announcement."""

_SETTLEMENTS: Mapping[int, Settlement] = {
    pb.DELIVERY_RESULT_SENT: Settlement.SENT,
    pb.DELIVERY_RESULT_RETRY: Settlement.RETRY,
    pb.DELIVERY_RESULT_FAILED: Settlement.FAILED,
}
# Where a delivery stands after a settlement, the first at once.
_STATES_AFTER: Mapping[Settlement, tuple[DeliveryState, ...]] = {
    Settlement.SENT: (DeliveryState.SENT, DeliveryState.DELIVERED),
    Settlement.RETRY: (DeliveryState.PENDING,),
    Settlement.FAILED: (DeliveryState.FAILED,),
}
_RECEIPT_STATUSES = {
    True: pb.RECEIPT_STATUS_ACCEPTED,
    False: pb.RECEIPT_STATUS_ALREADY_KNOWN,
    None: pb.RECEIPT_STATUS_UNKNOWN_DECISION,
}


class DeliveryService:
    """See the contract."""

    def __init__(self, app: UseCases, draining: Draining) -> None:
        self._app = app
        self._draining = draining

    async def Attach(  # noqa: N802
        self, requests: AsyncIterator[pb.AttachRequest], context: Context
    ) -> AsyncIterator[pb.AttachResponse]:
        first = await anext(requests, None)
        if first is None:
            return
        if first.WhichOneof("message") != "hello":
            raise InvalidRequestError("hello", "the first message of a stream must be the hello")
        caller_of(context).check_channel(first.hello.channel)
        client = _Client(self._app, first.hello)
        duration = Duration()
        duration.FromMicroseconds(int(self._app.settings.lease_seconds * 1_000_000))
        yield pb.AttachResponse(welcome=pb.AttachWelcome(lease_duration=duration, max_credit=MAX_CREDIT))
        inbox: deque[pb.AttachRequest] = deque()
        woken = asyncio.Event()
        slots = asyncio.Semaphore(MAX_CREDIT)

        async def take(message: pb.AttachRequest) -> None:
            await slots.acquire()
            inbox.append(message)
            woken.set()

        reader = asyncio.create_task(read_all(requests, take, self._draining))
        reader.add_done_callback(lambda _: woken.set())
        try:
            with self._draining.ends(reader):
                while True:
                    woken.clear()
                    ended = reader.done()
                    messages = list(inbox)
                    inbox.clear()
                    for _message in messages:
                        slots.release()
                    answers, fault = await client.take_in(messages)
                    for answer in answers:
                        yield answer
                    fault = fault or (reader.result() if ended else None)
                    if fault is not None:
                        raise fault
                    if ended:
                        return
                    leases = await client.lease()
                    for lease in leases:
                        yield pb.AttachResponse(lease=lease)
                    if not leases:
                        await client.idle(woken)
        finally:
            reader.cancel()

    async def ListDeadLetters(  # noqa: N802
        self, request: pb.ListDeadLettersRequest, _: Context
    ) -> pb.ListDeadLettersResponse:
        size = page_size(request.page_size)
        before = read_cursor("page_token", request.page_token) if request.page_token else 0
        letters = await self._app.dead_letters.page(request.channel, request.campaign, before, size)
        return pb.ListDeadLettersResponse(
            dead_letters=[_dead_letter(letter) for letter in letters],
            next_page_token=str(letters[-1].cursor) if len(letters) == size else "",
        )

    async def RedriveDeadLetters(  # noqa: N802
        self, request: pb.RedriveDeadLettersRequest, context: Context
    ) -> pb.RedriveDeadLettersResponse:
        check_length("comment", request.comment, 500)
        check_length("request_id", request.request_id, 64)
        expires_in_us = None
        if request.HasField("expires_in"):
            expires_in_us = request.expires_in.ToMicroseconds()
            if not 0 < expires_in_us <= _LONGEST_US:
                raise InvalidRequestError(
                    "expires_in", "expires_in must be more than nothing and at most 366 days, or absent"
                )
        write = Redrive(caller_of(context), request.comment, expires_in_us)
        ids = list(dict.fromkeys(request.delivery_ids))
        if ids:
            if request.channel or request.campaign:
                raise InvalidRequestError("delivery_ids", "give delivery_ids, or a channel or campaign")
            if len(ids) > MAX_REDRIVEN:
                raise InvalidRequestError("delivery_ids", f"at most {MAX_REDRIVEN} delivery_ids at a time")
            redriven = await self._app.dead_letters.redrive(ids, write)
        elif request.channel or request.campaign:
            redriven = await self._app.dead_letters.redrive_all(request.channel, request.campaign, write)
        else:
            raise InvalidRequestError("delivery_ids", "name delivery_ids, a channel or a campaign")
        known = set(redriven)
        return pb.RedriveDeadLettersResponse(
            redriven_count=len(redriven), skipped_delivery_ids=[id_ for id_ in ids if id_ not in known]
        )


class _Client:
    """One attached client: its credit, and the leases that it holds."""

    def __init__(self, app: UseCases, hello: pb.AttachHello) -> None:
        app.deliveries.check_channel(hello.channel)
        check_length("hello.client_name", hello.client_name, 64, least=1)
        if not 0 <= hello.credit <= MAX_CREDIT:
            raise InvalidRequestError("hello.credit", f"hello.credit must be 0 to {MAX_CREDIT}")
        log.info("%s attached to %s", mask(hello.client_name), hello.channel)
        self._app = app
        self._channel = hello.channel
        self._credit = hello.credit
        # What was leased on this stream and not acked: it holds credit, even after the lease has run out.
        self._held: set[tuple[str, str]] = set()

    async def lease(self) -> list[pb.Lease]:
        """New leases, as far as the credit goes."""
        if not self._credit:
            return []
        leases = await self._app.deliveries.lease(self._channel, min(self._credit, _LEASES_AT_ONCE))
        self._credit -= len(leases)
        self._held.update((lease.decision_id, _token(lease)) for lease in leases)
        return [self._lease(lease) for lease in leases]

    async def idle(self, woken: asyncio.Event) -> None:
        """Wait until the client says something, or there may be something to lease."""
        waits = [asyncio.create_task(woken.wait())]
        if self._credit:
            news = self._app.deliveries.news(self._channel, _LOOK_AGAIN_SECONDS)
            waits.append(asyncio.create_task(news))  # type: ignore[arg-type]  # tasks of two result types
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def take_in(
        self, messages: Sequence[pb.AttachRequest]
    ) -> tuple[list[pb.AttachResponse], Exception | None]:
        """Answers to what the client said, up to its first fault, and the fault."""
        acks: list[pb.Ack] = []
        receipts: list[pb.Receipt] = []
        fault: Exception | None = None
        for message in messages:
            try:
                match message.WhichOneof("message"):
                    case "ack":
                        acks.append(message.ack)
                    case "receipt":
                        receipts.append(message.receipt)
                    case "add_credit":
                        self._add_credit(message.add_credit.amount)
                    case _:
                        raise InvalidRequestError("message", "say ack, receipt or add_credit")  # noqa: TRY301
            except InvalidRequestError as error:
                fault = error
                break
        answers = [pb.AttachResponse(ack_result=each) for each in await self._settle(acks)]
        answers += [pb.AttachResponse(receipt_result=each) for each in await self._report(receipts)]
        return answers, fault

    def _add_credit(self, amount: int) -> None:
        most = MAX_CREDIT - self._credit - len(self._held)
        if not 1 <= amount <= most:
            raise InvalidRequestError(
                "add_credit.amount",
                f"a client may have {MAX_CREDIT} credit with what it holds: add at least 1 and here at "
                f"most {most}",
            )
        self._credit += amount

    async def _settle(self, acks: Sequence[pb.Ack]) -> list[pb.AckResult]:
        """Apply the acks; look up where a delivery stands only if something is odd."""
        if not acks:
            return []
        deliveries = self._app.deliveries
        # What this client was leased is of its channel; anything else may be of another.
        strange = [a.delivery_id for a in acks if (a.delivery_id, a.lease_token) not in self._held]
        standings = await deliveries.standings(strange) if strange else {}
        settled: dict[int, Settled] = {}
        for place, ack in enumerate(acks):
            key = (ack.delivery_id, ack.lease_token)
            known = key in self._held or self._is_here(standings.get(ack.delivery_id))
            if known and ack.result in _SETTLEMENTS and (token := _read_token(ack.lease_token)):
                settled[place] = Settled(ack.delivery_id, *token, _SETTLEMENTS[ack.result], _detail(ack))
            if key in self._held:
                self._held.remove(key)
                self._credit += 1
        accepted = await deliveries.settle(list(settled.values())) if settled else []
        taken = dict(zip(settled, accepted, strict=True))
        refused = {ack.delivery_id for place, ack in enumerate(acks) if not taken.get(place)}
        standings = await deliveries.standings(refused) if refused else {}
        return [
            pb.AckResult(
                delivery_id=ack.delivery_id,
                lease_token=ack.lease_token,
                status=pb.ACK_STATUS_ACCEPTED,
                delivery_state=state_number(_STATES_AFTER[settled[place].settlement][0]),
            )
            if taken.get(place)
            else self._refused(ack, settled.get(place), standings.get(ack.delivery_id))
            for place, ack in enumerate(acks)
        ]

    def _is_here(self, standing: Standing | None) -> bool:
        return standing is not None and standing.channel == self._channel

    def _refused(self, ack: pb.Ack, settled: Settled | None, standing: Standing | None) -> pb.AckResult:
        """Why an ack did not count: it did before, or it came too late, or it is wrong."""
        state = None
        if standing is None or standing.channel != self._channel:
            status = pb.ACK_STATUS_UNKNOWN_DELIVERY
        else:
            state = standing.state
            repeated = (
                settled is not None
                and settled.attempt == standing.attempts
                and state in _STATES_AFTER[settled.settlement]
            )
            if ack.result not in _SETTLEMENTS:
                status = pb.ACK_STATUS_INVALID
            else:
                status = pb.ACK_STATUS_ALREADY_KNOWN if repeated else pb.ACK_STATUS_STALE
        return pb.AckResult(
            delivery_id=ack.delivery_id,
            lease_token=ack.lease_token,
            status=status,
            delivery_state=state_number(state),
        )

    async def _report(self, receipts: Sequence[pb.Receipt]) -> list[pb.ReceiptResult]:
        if not receipts:
            return []
        now_us = self._app.clock.now_us()
        reported: dict[int, Reported] = {}
        for place, receipt in enumerate(receipts):
            try:
                at_us = now_us
                if receipt.HasField("occurred_at"):
                    at_us = past_time("occurred_at", receipt.occurred_at, now_us)
            except InvalidRequestError:
                continue  # answered as invalid
            if receipt.kind in OUTCOMES:
                reported[place] = Reported(
                    receipt.decision_id, OUTCOMES[receipt.kind], at_us, _words(receipt.detail)
                )
        known = await self._app.deliveries.report_receipts(self._channel, list(reported.values()))
        statuses = {place: _RECEIPT_STATUSES[each] for place, each in zip(reported, known, strict=True)}
        return [
            pb.ReceiptResult(
                decision_id=receipt.decision_id,
                kind=receipt.kind,
                receipt_id=receipt.receipt_id,
                status=statuses.get(place, pb.RECEIPT_STATUS_INVALID),
            )
            for place, receipt in enumerate(receipts)
        ]

    def _lease(self, lease: Lease) -> pb.Lease:
        campaign = self._app.live.of(lease.subscriber_id).rulebase.campaigns.get(lease.campaign)
        return pb.Lease(
            delivery_id=lease.decision_id,
            decision_id=lease.decision_id,
            lease_token=_token(lease),
            attempt=lease.attempt,
            subscriber_id=lease.subscriber_id,
            channel=lease.channel,
            campaign=lease.campaign,
            campaign_label=campaign.label if campaign else "",
            product=lease.product,
            content=lease.content,
            lease_expires_at=timestamp(lease.lease_until_us),
            expires_at=timestamp(lease.expires_at_us),
            idempotency_key=lease.decision_id,
            test=lease.test,
        )


def _detail(ack: pb.Ack) -> str:
    """What the client says for operators. Words must not hold a number; the channel's own id may be one."""
    said = _words(ack.detail)
    message = f"message {_keepable(ack.channel_message_id[:128])}" if ack.channel_message_id else ""
    return ": ".join(filter(None, (message, said)))


def _words(detail: str) -> str:
    return mask(_keepable(detail[:_MAX_DETAIL]))


def _keepable(text: str) -> str:
    """Not every store can keep the character NUL."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _dead_letter(letter: DeadLetter) -> pb.DeadLetter:
    return pb.DeadLetter(
        delivery_id=letter.decision_id,
        decision_id=letter.decision_id,
        subscriber_id=letter.subscriber_id,
        channel=letter.channel,
        campaign=letter.campaign,
        content=letter.content,
        attempt_count=letter.attempts,
        last_detail=letter.detail,
        dead_at=timestamp(letter.dead_at_us),
        expires_at=timestamp(letter.expires_at_us),
    )


def _token(lease: Lease) -> str:
    """The fencing token with the attempt, which the pause before the next one depends on."""
    return f"{lease.token}-{lease.attempt}"


def _read_token(text: str) -> tuple[int, int] | None:
    """Token and attempt; None for what this service never gave out."""
    token, _, attempt = text.partition("-")
    if len(text) > 20 or not (
        token.isascii() and token.isdigit() and attempt.isascii() and attempt.isdigit()
    ):
        return None
    return (int(token), int(attempt)) if int(attempt) <= MAX_ATTEMPTS else None
