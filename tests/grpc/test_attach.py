"""Channel clients: leases, acks, receipts, credit."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from opportune.v1 import delivery_service_pb2 as pb
from opportune.v1 import types_pb2 as types
from opportune_service.adapters.grpc.delivery_service import MAX_CREDIT
from opportune_service.app.clearance import MAX_ATTEMPTS
from opportune_service.clocks import ManualClock
from support.rulebases import NOON_US
from support.server import Service, in_loop, read_to_end, refusal, running_service
from support.small_rulebase import small_rulebase, subscribers
from support.wire import event, import_batch, import_header, publish, timestamp

EAGER = small_rulebase(threshold=1)
SECOND_US = 1_000_000


class Client:
    """A channel client that reads one answer at a time."""

    def __init__(self, service: Service) -> None:
        self.stream = service.deliveries.Attach()

    async def attach(self, credit: int, channel: str = "sms") -> pb.AttachWelcome:
        hello = pb.AttachHello(channel=channel, client_name="gateway", credit=credit)
        await self.say(hello=hello)
        return (await self.stream.read()).welcome

    async def say(self, **message: Any) -> None:
        await self.stream.write(pb.AttachRequest(**message))

    async def lease(self) -> pb.Lease:
        answer = await self.stream.read()
        assert answer.WhichOneof("message") == "lease", answer
        return answer.lease

    async def ack(
        self,
        lease: pb.Lease,
        result: pb.DeliveryResult.ValueType = pb.DELIVERY_RESULT_SENT,
        **fields: Any,
    ) -> pb.AckResult:
        await self.say(
            ack=pb.Ack(
                delivery_id=lease.delivery_id, lease_token=lease.lease_token, result=result, **fields
            )
        )
        return (await self.stream.read()).ack_result

    async def report(
        self, decision_id: str, kind: types.OutcomeKind.ValueType, **fields: Any
    ) -> pb.ReceiptStatus.ValueType:
        await self.say(receipt=pb.Receipt(decision_id=decision_id, kind=kind, **fields))
        return (await self.stream.read()).receipt_result.status

    async def failure(self) -> Any:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_to_end(self.stream)
        return refusal(caught.value)


async def offer_to(service: Service, people: list[str], tag: str = "") -> None:
    """Let each of them be sent an SMS."""
    records = {id_: {} for id_ in people}
    await service.subscribers.ImportSubscribers(iter([import_header(), import_batch(records)]))
    sent = [event(f"{tag}{id_}", id_) for id_ in people]
    await service.events.PublishEvents(publish(*sent))


@in_loop
async def test_a_decision_is_leased_acked_and_reported() -> None:
    async with running_service(files=EAGER, lease_seconds=20) as service:
        client = Client(service)
        welcome = await client.attach(credit=5)
        assert welcome.max_credit == MAX_CREDIT
        assert welcome.lease_duration.ToSeconds() == 20
        person = subscribers(1)[0]
        # The client waits already: it is the commit that wakes it.
        await offer_to(service, [person])
        lease = await client.lease()
        assert lease.subscriber_id == person
        assert lease.content == "MMS for less: MMS bundle"
        assert (lease.campaign, lease.campaign_label) == ("mms-bundle", "MMS bundle for heavy senders")
        assert (lease.product, lease.channel, lease.attempt) == ("mms-bundle", "sms", 1)
        assert lease.lease_expires_at == timestamp(NOON_US + 20 * SECOND_US)
        assert lease.idempotency_key
        taken = await client.ack(lease)
        assert taken == pb.AckResult(
            delivery_id=lease.delivery_id,
            lease_token=lease.lease_token,
            status=pb.ACK_STATUS_ACCEPTED,
            delivery_state=types.DELIVERY_STATE_SENT,
        )
        decision, delivered = lease.decision_id, types.OUTCOME_KIND_DELIVERED
        assert await client.report(decision, delivered, detail="x" * 501) == pb.RECEIPT_STATUS_ACCEPTED
        (outcome,) = await service.app.thread.run(service.app.ledger.outcomes_of, decision)
        assert outcome.detail == "x" * 500
        assert await client.report(decision, delivered) == pb.RECEIPT_STATUS_ALREADY_KNOWN
        assert await client.report(decision, 0) == pb.RECEIPT_STATUS_INVALID
        assert await client.report("nobody's", delivered) == pb.RECEIPT_STATUS_UNKNOWN_DECISION
        future = timestamp(NOON_US + 3600 * SECOND_US)
        refused = types.OUTCOME_KIND_REFUSED
        assert await client.report(decision, refused, occurred_at=future) == pb.RECEIPT_STATUS_INVALID
        await client.stream.done_writing()
        assert await client.stream.read() is grpc.aio.EOF
        assert await client.stream.code() is grpc.StatusCode.OK


@in_loop
async def test_a_lease_that_ran_out_goes_to_another_and_its_token_is_stale() -> None:
    clock = ManualClock(NOON_US)
    async with running_service(files=EAGER, clock=clock) as service:
        frozen, other = Client(service), Client(service)
        await frozen.attach(credit=1)
        await offer_to(service, subscribers(1))
        first = await frozen.lease()
        await other.attach(credit=1)
        clock.value_us += 31 * SECOND_US
        second = await other.lease()
        assert second.delivery_id == first.delivery_id
        assert second.idempotency_key == first.idempotency_key
        assert (first.attempt, second.attempt) == (1, 2)
        late = await frozen.ack(first)
        assert (late.status, late.delivery_state) == (pb.ACK_STATUS_STALE, types.DELIVERY_STATE_LEASED)
        assert (await other.ack(second)).status == pb.ACK_STATUS_ACCEPTED
        assert (await other.ack(second)).status == pb.ACK_STATUS_ALREADY_KNOWN
        assert (await frozen.ack(first)).status == pb.ACK_STATUS_STALE


@in_loop
async def test_credit_bounds_what_a_client_holds() -> None:
    async with running_service(files=EAGER) as service:
        people = subscribers(5)
        greedy, modest = Client(service), Client(service)
        await greedy.attach(credit=2)
        await offer_to(service, people)
        held = [await greedy.lease(), await greedy.lease()]
        await modest.attach(credit=0)
        await modest.say(add_credit=pb.AddCredit(amount=3))
        others = [await modest.lease() for _ in range(3)]
        assert sorted(each.subscriber_id for each in held + others) == people
        await offer_to(service, subscribers(7)[5:])
        # An ack gives its credit back, one that changes nothing does not.
        assert (await greedy.ack(held[0])).status == pb.ACK_STATUS_ACCEPTED
        third = await greedy.lease()
        assert (await greedy.ack(held[0])).status == pb.ACK_STATUS_ALREADY_KNOWN
        assert (await modest.ack(others[0])).status == pb.ACK_STATUS_ACCEPTED
        assert {third.subscriber_id, (await modest.lease()).subscriber_id} == set(subscribers(7)[5:])


@pytest.mark.parametrize("result", [pb.DELIVERY_RESULT_RETRY, pb.DELIVERY_RESULT_FAILED])
def test_what_was_not_sent_is_tried_again_or_given_up(result: pb.DeliveryResult.ValueType) -> None:
    @in_loop
    async def body() -> None:
        clock = ManualClock(NOON_US)
        async with running_service(files=EAGER, clock=clock) as service:
            client = Client(service)
            await client.attach(credit=1)
            await offer_to(service, subscribers(1))
            first = await client.lease()
            taken = await client.ack(first, result)
            assert taken.status == pb.ACK_STATUS_ACCEPTED
            assert (await client.ack(first, result)).status == pb.ACK_STATUS_ALREADY_KNOWN
            clock.value_us += 60 * SECOND_US
            if result == pb.DELIVERY_RESULT_FAILED:
                assert taken.delivery_state == types.DELIVERY_STATE_FAILED
                await offer_to(service, subscribers(2)[1:])
            else:
                assert taken.delivery_state == types.DELIVERY_STATE_PENDING
            again = await client.lease()
            assert (again.delivery_id == first.delivery_id) == (result == pb.DELIVERY_RESULT_RETRY)

    body()


@in_loop
async def test_a_client_speaks_for_its_own_channel_only() -> None:
    files = dict(EAGER)
    files["vocabulary.yaml"] = files["vocabulary.yaml"].replace(
        b"sms: {mode: automatic}", b"sms: {mode: automatic}, push: {mode: automatic}"
    )
    async with running_service(files=files) as service:
        sms, push = Client(service), Client(service)
        await sms.attach(credit=1)
        await push.attach(credit=1, channel="push")
        await offer_to(service, subscribers(1))
        lease = await sms.lease()
        assert (await push.ack(lease)).status == pb.ACK_STATUS_UNKNOWN_DELIVERY
        delivered = types.OUTCOME_KIND_DELIVERED
        assert await push.report(lease.decision_id, delivered) == pb.RECEIPT_STATUS_UNKNOWN_DECISION
        # After a reconnect the lease is still the client's own to settle.
        sms.stream.cancel()
        back = Client(service)
        await back.attach(credit=1)
        wrong = pb.Lease(delivery_id=lease.delivery_id)
        for token in ("1-99999999999", "9-1", "-", "1", "x" * 1_000):
            wrong.lease_token = token
            assert (await back.ack(wrong)).status == pb.ACK_STATUS_STALE
        assert (await back.ack(lease, 0)).status == pb.ACK_STATUS_INVALID
        assert (await back.ack(lease)).status == pb.ACK_STATUS_ACCEPTED


@in_loop
async def test_a_bulk_channel_is_attached_to_like_an_automatic_one() -> None:
    files = small_rulebase(threshold=1, weekly_limit=9)
    files["vocabulary.yaml"] = files["vocabulary.yaml"].replace(
        b"counter: {mode: manual}", b"counter: {mode: manual, bulk: true}"
    )
    async with running_service(files=files) as service:
        client = Client(service)
        await client.attach(credit=1, channel="counter")
        person = subscribers(1)[0]
        await offer_to(service, [person])
        big = event("m", person, attributes={"size_kb": 200})
        # The client waits already: it is the commit of the prompt that wakes it.
        await service.events.PublishEvents(publish(big, event("s", person, type="sms_sent", attributes={})))
        lease = await client.lease()
        assert (lease.subscriber_id, lease.product) == (person, "care-plan")
        assert lease.content == "Offer the care plan."
        assert (await client.ack(lease)).status == pb.ACK_STATUS_ACCEPTED


@in_loop
async def test_a_client_is_given_what_the_pace_allows_as_time_passes() -> None:
    clock = ManualClock(NOON_US)
    async with running_service(files=paced(2), clock=clock) as service:
        client = Client(service)
        await client.attach(credit=10)
        await offer_to(service, subscribers(5))
        for second, most in ((1, 2), (2, 2), (3, 1)):
            clock.value_us = NOON_US + second * SECOND_US
            for _ in range(most):
                await client.lease()
            assert await service.app.deliveries.lease("sms", 9) == []


def paced(per_second: int) -> dict[str, bytes]:
    files = dict(EAGER)
    files["vocabulary.yaml"] = files["vocabulary.yaml"].replace(
        b"sms: {mode: automatic}", b"sms: {mode: automatic, per_second: %d}" % per_second
    )
    return files


async def give_up(service: Service, clock: ManualClock, people: list[str]) -> list[str]:
    """Have messages to them given up; their delivery ids, in order of decision."""
    client = Client(service)
    await client.attach(credit=len(people))
    given = []
    for number, person in enumerate(people):
        await offer_to(service, [person], tag=f"{number}")
        for _ in range(MAX_ATTEMPTS):
            lease = await client.lease()
            await client.ack(lease, pb.DELIVERY_RESULT_RETRY, detail=f"no route to {person}")
            clock.value_us += 61 * SECOND_US
        given.append(lease.delivery_id)
    assert await service.app.deliveries.lease("sms", 9) == []
    client.stream.cancel()
    return given


@in_loop
async def test_dead_letters_are_listed_and_redriven() -> None:
    clock = ManualClock(NOON_US)
    async with running_service(files=EAGER, clock=clock) as service:
        people = subscribers(3)
        given = await give_up(service, clock, people)
        api = service.deliveries
        first = await api.ListDeadLetters(pb.ListDeadLettersRequest(page_size=2))
        rest = await api.ListDeadLetters(
            pb.ListDeadLettersRequest(page_size=2, page_token=first.next_page_token)
        )
        assert [each.delivery_id for each in (*first.dead_letters, *rest.dead_letters)] == given[::-1]
        assert not rest.next_page_token
        (last,) = rest.dead_letters
        assert (last.subscriber_id, last.attempt_count, last.channel) == (people[0], MAX_ATTEMPTS, "sms")
        assert last.last_detail == "no route to *****"
        assert last.dead_at.seconds * SECOND_US > NOON_US
        elsewhere = await api.ListDeadLetters(pb.ListDeadLettersRequest(channel="push"))
        assert not elsewhere.dead_letters

        some = pb.RedriveDeadLettersRequest(delivery_ids=[given[0], "nothing"], comment="mended")
        answer = await api.RedriveDeadLetters(some)
        assert answer == pb.RedriveDeadLettersResponse(redriven_count=1, skipped_delivery_ids=["nothing"])
        again = await api.RedriveDeadLetters(some)
        assert (again.redriven_count, list(again.skipped_delivery_ids)) == (0, [given[0], "nothing"])
        client = Client(service)
        await client.attach(credit=5)
        lease = await client.lease()
        assert (lease.delivery_id, lease.attempt) == (given[0], 1)
        # A client that waits is woken by the redrive, and the offer has the time that it was given.
        all_ = pb.RedriveDeadLettersRequest(channel="sms")
        all_.expires_in.FromSeconds(60)
        assert (await api.RedriveDeadLetters(all_)).redriven_count == 2
        assert {(await client.lease()).delivery_id for _ in range(2)} == set(given[1:])
        assert not (await api.ListDeadLetters(pb.ListDeadLettersRequest())).dead_letters


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.RedriveDeadLettersRequest(), "delivery_ids"),
        (pb.RedriveDeadLettersRequest(delivery_ids=["a"], channel="sms"), "delivery_ids"),
        (pb.RedriveDeadLettersRequest(delivery_ids=map(str, range(1_001))), "delivery_ids"),
        (pb.RedriveDeadLettersRequest(channel="sms", comment="x" * 501), "comment"),
        (pb.RedriveDeadLettersRequest(channel="sms", request_id="x" * 65), "request_id"),
        (pb.RedriveDeadLettersRequest(channel="sms", expires_in={"seconds": -1}), "expires_in"),
        (pb.ListDeadLettersRequest(page_token="soon"), "page_token"),  # noqa: S106 - no password
        (pb.ListDeadLettersRequest(page_size=1_001), "page_size"),
    ],
)
def test_a_bad_request_about_dead_letters_is_refused(request_: Any, field: str) -> None:
    @in_loop
    async def body() -> None:
        async with running_service(files=EAGER) as service:
            api = service.deliveries
            listing = isinstance(request_, pb.ListDeadLettersRequest)
            call = api.ListDeadLetters if listing else api.RedriveDeadLetters
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(request_)
            assert refusal(caught.value).fields == [field]

    body()


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([{"ack": pb.Ack()}], "hello"),
        ([{"hello": pb.AttachHello(channel="counter", client_name="x")}], "channel"),
        ([{"hello": pb.AttachHello(channel="nonsense", client_name="x")}], "channel"),
        ([{"hello": pb.AttachHello(channel="sms")}], "hello.client_name"),
        ([{"hello": pb.AttachHello(channel="sms", client_name="x", credit=-1)}], "hello.credit"),
        (
            [{"hello": pb.AttachHello(channel="sms", client_name="x", credit=MAX_CREDIT + 1)}],
            "hello.credit",
        ),
        ([{"hello": pb.AttachHello(channel="sms", client_name="x")}] * 2, "message"),
        ([{"hello": pb.AttachHello(channel="sms", client_name="x")}, {}], "message"),
        (
            [
                {"hello": pb.AttachHello(channel="sms", client_name="x", credit=MAX_CREDIT)},
                {"add_credit": pb.AddCredit(amount=1)},
            ],
            "add_credit.amount",
        ),
    ],
)
def test_a_bad_message_ends_the_stream(messages: list[dict[str, Any]], field: str) -> None:
    @in_loop
    async def body() -> None:
        async with running_service(files=EAGER) as service:
            client = Client(service)
            for message in messages:
                await client.say(**message)
            said = await client.failure()
            assert said.code is grpc.StatusCode.INVALID_ARGUMENT
            assert said.fields == [field]

    body()


@in_loop
async def test_a_draining_server_answers_acks_and_lets_go() -> None:
    async with running_service(files=EAGER) as service:
        client = Client(service)
        await client.attach(credit=1)
        await offer_to(service, subscribers(1))
        lease = await client.lease()
        assert (await client.ack(lease)).status == pb.ACK_STATUS_ACCEPTED
        draining = asyncio.create_task(service.server.drain(5))
        said = await client.failure()
        assert (said.code, said.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        await draining
