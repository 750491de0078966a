"""The clients over real streams, against the fake that users get for their own tests."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from pathlib import Path

import grpc
import pytest
from opportune.v1 import advice_service_pb2 as advice_pb
from opportune.v1 import delivery_service_pb2 as delivery_pb
from opportune.v1 import insight_service_pb2 as insight_pb
from opportune.v1 import rulebase_service_pb2 as rulebase_pb
from opportune.v1 import types_pb2
from opportune_client import (
    AccessError,
    ActivationMode,
    AsyncChannelClient,
    AsyncCrmClient,
    AsyncEventCollector,
    BufferFullError,
    BusyError,
    ChannelClient,
    ConflictError,
    CrmClient,
    DeadlineError,
    Encoding,
    Event,
    EventCollector,
    Failed,
    ImportMode,
    Message,
    NotFoundError,
    NotReadyError,
    OperatorClient,
    OutcomeKind,
    Reason,
    Rejected,
    RejectionReason,
    RequestError,
    RulebaseEvent,
    RulebaseState,
    Sent,
    SubscriberRecord,
    UnavailableError,
    UnsentError,
    UnsupportedError,
    connect,
)
from opportune_client.testing import FakeOpportune

PATIENCE = 20.0  # seconds until a test that would hang fails instead
NOON = datetime(2014, 6, 1, 12, tzinfo=UTC)
NUMBER = "8613900000001"


@pytest.fixture
def fake() -> Iterator[FakeOpportune]:
    with FakeOpportune(lease_seconds=0.05) as fake:
        yield fake


@pytest.fixture
def channel(fake: FakeOpportune) -> Iterator[grpc.Channel]:
    with fake.connect() as channel:
        yield channel


def events(count: int, start: int = 0) -> list[Event]:
    return [Event(f"e{n}", NUMBER, "power_on", NOON, {"n": n}) for n in range(start, start + count)]


def ids(fake: FakeOpportune) -> list[str]:
    return [event.id for event in fake.events]


def in_loop(body: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE):
            await body()

    asyncio.run(bounded())


# Collectors


@pytest.mark.parametrize("encoding", list(Encoding))
def test_events_arrive_once_and_in_order(
    fake: FakeOpportune, channel: grpc.Channel, encoding: Encoding
) -> None:
    sent = events(95)
    with EventCollector(channel, "msc-7", encoding=encoding, batch_size=10) as collector:
        assert collector.send_many(sent) == 95
        assert collector.flush(PATIENCE)
        assert collector.unsent() == ()
    assert ids(fake) == [event.id for event in sent]
    assert [hello.source for hello in fake.hellos] == ["msc-7"]
    assert collector.counters.accepted == collector.counters.acked == 95


def test_broken_streams_lose_and_double_nothing(fake: FakeOpportune, channel: grpc.Channel) -> None:
    for batches in (1, 3, 2):
        fake.break_stream(batches)
    fake.break_stream(1, acknowledge=True)
    with EventCollector(channel, "msc-7", batch_size=10) as collector:
        collector.send_many(events(100))
    assert ids(fake) == [event.id for event in events(100)]
    counters = collector.counters
    assert counters.streams == len(fake.hellos) == 5
    assert counters.accepted + counters.duplicates == counters.acked == 100
    assert counters.duplicates >= 30  # three batches at least were committed and not acknowledged
    assert sum(fake.batch_sizes) >= 130


def test_a_service_that_goes_away_is_waited_for(fake: FakeOpportune, channel: grpc.Channel) -> None:
    with EventCollector(channel, "msc-7", batch_size=10) as collector:
        collector.send_many(events(20))
        assert collector.flush(PATIENCE)
        fake.stop()
        collector.send_many(events(20, start=20))
        assert not collector.flush(0)
        fake.start()
        assert collector.flush(PATIENCE)
        assert collector.trouble is None
    assert ids(fake) == [event.id for event in events(40)]


def test_rejections_go_to_the_callback_and_the_rest_counts(
    fake: FakeOpportune, channel: grpc.Channel
) -> None:
    fake.reject("e3", RejectionReason.TOO_LATE, "too late")
    rejected: list[Rejected] = []
    with EventCollector(channel, "msc-7", on_rejection=rejected.append) as collector:
        collector.send_many(events(5))
        collector.flush(PATIENCE)
        assert rejected == [Rejected(events(5)[3], RejectionReason.TOO_LATE, "too late")]
    assert collector.counters.accepted == 4


def test_a_failing_callback_is_seen(fake: FakeOpportune, channel: grpc.Channel) -> None:
    def on_rejection(rejected: Rejected) -> None:
        raise LookupError(rejected.event.id)

    fake.reject("e0", RejectionReason.TOO_LATE)
    collector = EventCollector(channel, "msc-7", on_rejection=on_rejection)
    with pytest.raises(LookupError, match="e0"), collector:
        collector.send_many(events(1))


def test_a_full_buffer_pushes_back(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.hold_acks()
    with EventCollector(channel, "msc-7", batch_size=5, capacity=10) as collector:
        collector.send_many(events(10))
        extra = events(1, start=10)[0]
        with pytest.raises(BufferFullError):
            collector.send(extra, timeout=0)
        fake.hold_acks(False)
        collector.send(extra, timeout=PATIENCE)
    assert ids(fake) == [event.id for event in events(11)]


def test_the_window_bounds_what_is_under_way(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.hold_acks()
    with EventCollector(channel, "msc-7", batch_size=1) as collector:
        collector.send_many(events(50))
        fake.wait_for(lambda: len(fake.batch_sizes) == 1)  # it holds the first one back
        assert collector.counters.sent <= 4
        fake.hold_acks(False)
    assert len(fake.events) == 50


def test_what_was_not_acknowledged_is_handed_back(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.hold_acks()
    with (
        pytest.raises(UnsentError) as caught,
        EventCollector(channel, "msc-7", batch_size=2, close_timeout=0) as collector,
    ):
        collector.send_many(events(3))
    assert caught.value.unsent == tuple(events(3))
    assert NUMBER not in str(caught.value)


def test_a_collector_left_by_an_exception_still_delivers(
    fake: FakeOpportune, channel: grpc.Channel
) -> None:
    def interrupted() -> None:
        with EventCollector(channel, "msc-7") as collector:
            collector.send_many(events(3))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(fake.events) == 3


def test_no_access_stops_the_collector_and_says_so(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.break_stream(1)
    fake.hold_acks()
    collector = EventCollector(channel, "msc-7")

    def refused() -> None:
        with collector:
            collector.send_many(events(1))
            fake.wait_for(lambda: len(fake.events) == 1)
            fake.fail("StreamEvents", "PERMISSION_DENIED", reason="ROLE_MISSING")  # the next stream
            fake.hold_acks(False)

    with pytest.raises(AccessError) as caught:
        refused()
    assert caught.value.reason == "ROLE_MISSING"
    assert isinstance(caught.value.__cause__, grpc.RpcError)
    assert collector.unsent() == tuple(events(1))


def test_no_rulebase_yet_is_waited_out(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.fail("StreamEvents", "FAILED_PRECONDITION", reason="NO_RULEBASE", times=2)
    with EventCollector(channel, "msc-7") as collector:
        collector.send_many(events(1))
    assert collector.counters.accepted == 1
    assert fake.calls == ["StreamEvents"] * 3


def test_a_collector_belongs_into_a_with_statement(channel: grpc.Channel) -> None:
    with pytest.raises(RuntimeError, match="with statement"):
        EventCollector(channel, "msc-7").send(events(1)[0])


def test_async_collector(fake: FakeOpportune) -> None:
    rejected: list[Rejected] = []

    async def source() -> AsyncIterator[Event]:
        for event in events(40, start=60):
            yield event

    async def body() -> None:
        async with (
            fake.connect_async() as channel,
            AsyncEventCollector(
                channel, "msc-7", batch_size=10, capacity=20, on_rejection=rejected.append
            ) as collector,
        ):
            await collector.send_many(events(60))
            await collector.send_many(source())
            assert await collector.flush()
            assert collector.counters.acked == 100
            # How many acknowledgements a breaking stream still delivers is the network's affair.
            assert collector.counters.duplicates >= 10

    fake.break_stream(2)
    fake.break_stream(1)
    fake.break_stream(0, acknowledge=True)
    fake.reject("e99", RejectionReason.BAD_ATTRIBUTES)
    in_loop(body)
    assert ids(fake) == [event.id for event in events(99)]
    assert [item.event.id for item in rejected] == ["e99"]


def test_async_collector_hands_back_what_was_not_acknowledged(fake: FakeOpportune) -> None:
    async def body() -> None:
        async with fake.connect_async() as channel:
            with pytest.raises(UnsentError) as caught:
                async with AsyncEventCollector(channel, "msc-7", close_timeout=0) as collector:
                    await collector.send_many(events(3))
            assert caught.value.unsent == tuple(events(3))

    fake.hold_acks()
    in_loop(body)


# Channels


def test_messages_are_sent_acked_and_reported(fake: FakeOpportune, channel: grpc.Channel) -> None:
    decisions = [fake.lease("sms", NUMBER, f"text {n}") for n in range(5)]
    fake.lease("mms", NUMBER, "not for this channel")
    contents: list[str] = []

    def handler(message: Message) -> Sent:
        contents.append(message.content)
        return Sent(f"id of {message.decision_id}")

    with ChannelClient(channel, "sms", handler, credit=2) as client:
        fake.wait_for(lambda: len(fake.acks) == 5)
        client.receipt(decisions[0], OutcomeKind.DELIVERED, occurred_at=NOON)
        client.receipt("unknown", OutcomeKind.DELIVERED)
        assert client.flush(PATIENCE)
    assert sorted(contents) == [f"text {n}" for n in range(5)]
    assert {ack.result for ack in fake.acks} == {delivery_pb.DELIVERY_RESULT_SENT}
    assert {ack.channel_message_id for ack in fake.acks} == {f"id of {decision}" for decision in decisions}
    assert [receipt.decision_id for receipt in fake.receipts] == decisions[:1]
    assert (client.counters.sent, client.counters.refused) == (5, 1)


def test_a_failure_that_may_pass_is_tried_again(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.lease("sms", NUMBER, "text")

    def handler(message: Message) -> Sent | Failed:
        return Sent() if message.attempt == 3 else Failed("congested")

    with ChannelClient(channel, "sms", handler):
        fake.wait_for(lambda: len(fake.acks) == 3)
    assert [ack.detail for ack in fake.acks] == ["congested", "congested", ""]


def test_a_slow_handler_holds_no_more_than_its_credit(fake: FakeOpportune, channel: grpc.Channel) -> None:
    for _ in range(6):
        fake.lease("sms", NUMBER, "text")
    gate = threading.Event()
    both = threading.Barrier(3, timeout=PATIENCE)
    running: list[int] = []
    most: list[int] = []
    lock = threading.Lock()

    def handler(message: Message) -> Sent:
        with lock:
            running.append(1)
            most.append(len(running))
        if not gate.is_set():
            both.wait()
            gate.wait(PATIENCE)
        with lock:
            running.pop()
        return Sent()

    with ChannelClient(channel, "sms", handler, credit=2) as client:
        both.wait()
        assert client.counters.leases == 2
        gate.set()
        fake.wait_for(lambda: len(fake.acks) == 6)
    assert max(most) == 2


def test_nobody_knows_what_a_raising_handler_did(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.lease("sms", NUMBER, "text")
    raised = threading.Event()

    def handler(message: Message) -> Sent:
        if message.attempt == 1:
            raised.set()
            raise OSError(f"connection lost while sending to {message.subscriber_id}")
        return Sent()

    with ChannelClient(channel, "sms", handler, credit=1) as client:
        assert raised.wait(PATIENCE)
        assert fake.acks == []
        fake.expire_leases()
        fake.wait_for(lambda: len(fake.acks) == 1)
    assert (client.counters.unknown, client.counters.sent) == (1, 1)


def test_the_log_of_a_raising_handler_quotes_no_number(
    fake: FakeOpportune, channel: grpc.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    fake.lease("sms", NUMBER, "text")
    raised = threading.Event()

    def handler(message: Message) -> Sent:
        raised.set()
        raise OSError(message.subscriber_id)

    with ChannelClient(channel, "sms", handler):
        assert raised.wait(PATIENCE)
    assert "OSError" in caplog.text
    assert NUMBER not in caplog.text


def test_a_message_that_expired_is_not_sent(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.lease("sms", NUMBER, "text", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    contents: list[str] = []

    def handler(message: Message) -> Sent:
        contents.append(message.content)
        return Sent()

    with ChannelClient(channel, "sms", handler):
        fake.wait_for(lambda: len(fake.acks) == 1)
    assert contents == []
    assert fake.acks[0].result == delivery_pb.DELIVERY_RESULT_RETRY, "the offer may last longer"


def test_a_broken_stream_sends_nothing_twice(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.lease("sms", NUMBER, "text")
    begun, go = threading.Event(), threading.Event()
    contents: list[str] = []

    def handler(message: Message) -> Sent:
        contents.append(message.content)
        begun.set()
        assert go.wait(PATIENCE)
        return Sent()

    with ChannelClient(channel, "sms", handler, credit=2) as client:
        assert begun.wait(PATIENCE)
        fake.break_channels()
        fake.expire_leases()
        fake.wait_for(lambda: fake.calls.count("Attach") == 2)
        fake.wait_for(lambda: [lease.attempt for lease in fake.leases] == [1, 2])
        go.set()
        fake.wait_for(lambda: len(fake.acks) == 1)
    assert contents == ["text"]
    assert client.counters.stale == 1  # the ack of the first lease


def test_async_channel_client(fake: FakeOpportune) -> None:
    decision = fake.lease("sms", NUMBER, "text")

    async def body() -> None:
        sent = asyncio.Event()

        async def handler(message: Message) -> Sent:
            if message.attempt == 1:
                fake.break_channels()
                fake.expire_leases()
                raise OSError("who knows")
            sent.set()
            return Sent()

        async with (
            fake.connect_async() as channel,
            AsyncChannelClient(channel, "sms", handler, credit=1) as client,
        ):
            await sent.wait()
            client.receipt(decision, OutcomeKind.DELIVERED)
            assert await client.flush()
            assert client.counters.unknown == 1

    in_loop(body)
    assert len(fake.acks) == len(fake.receipts) == 1


# Business systems


def test_import_and_look_up(fake: FakeOpportune, channel: grpc.Channel) -> None:
    crm = CrmClient(channel)
    records = [
        SubscriberRecord(
            f"86139{n:08}",
            {"age": n},
            consents={"all": False},
            behaviours={"often_off": True},
            metrics={"mms_30d": {date(2014, 6, 1): n}},
        )
        for n in range(1_200)
    ]
    response = crm.import_subscribers(iter(records), NOON, ImportMode.PATCH, origin="bass")
    assert response.imported_count == len(fake.subscribers) == 1_200
    assert [(header.mode, header.origin) for header in fake.import_headers] == [(ImportMode.PATCH, "bass")]
    stored = fake.subscribers[records[7].subscriber_id]
    assert stored.consents[0].state == types_pb2.CONSENT_STATE_REFUSED
    assert stored.behaviours[0].holds
    assert (stored.metrics[0].days[0].date, stored.metrics[0].days[0].value_json) == ("2014-06-01", "7")
    assert crm.get_subscriber(records[7].subscriber_id).attributes == b'{"age":7}'
    with pytest.raises(NotFoundError) as caught:
        crm.get_subscriber("8613800000000")
    assert caught.value.reason == "NOT_FOUND"


def test_an_import_raises_what_its_records_raise(fake: FakeOpportune, channel: grpc.Channel) -> None:
    def records() -> Iterator[SubscriberRecord]:
        yield SubscriberRecord(NUMBER)
        raise OSError("the extract ends in mid-line")

    with pytest.raises(OSError, match="mid-line"):
        CrmClient(channel).import_subscribers(records(), NOON, ImportMode.UPSERT)


def test_advice_and_its_outcome(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.advices.append(advice_pb.Advice(decision_id="d1", content="Would you like ..."))
    crm = CrmClient(channel)
    for _ in range(2):
        answer = crm.advise(NUMBER, "counter", request_id="visit-1", attributes={"topic": "bill"})
        assert [advice.decision_id for advice in answer.advices] == ["d1"]
    assert [visit.attributes for visit in fake.visits] == [b'{"topic":"bill"}']
    assert crm.report_outcome("d1", OutcomeKind.ACCEPTED, occurred_at=NOON)
    assert not crm.report_outcome("d1", OutcomeKind.ACCEPTED)
    with pytest.raises(NotFoundError):
        crm.report_outcome("d2", OutcomeKind.ACCEPTED)


def test_calls_that_may_be_repeated_are(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.fail("Advise", "UNAVAILABLE", times=2)
    CrmClient(channel).advise(NUMBER, "counter", request_id="visit-1")
    assert fake.calls == ["Advise"] * 3


def test_an_activation_is_never_repeated_by_itself(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.fail("ActivateRulebase", "UNAVAILABLE")
    with pytest.raises(Exception, match="the test wants it so"):
        OperatorClient(channel).activate("r")
    assert fake.calls == ["ActivateRulebase"]


def test_errors_carry_what_the_service_says(fake: FakeOpportune, channel: grpc.Channel) -> None:
    crm = CrmClient(channel)
    fake.fail("Advise", "INVALID_ARGUMENT", violations={"touch_point": "no such channel"})
    with pytest.raises(RequestError) as refused:
        crm.advise(NUMBER, "moon", request_id="visit-1")
    assert [(item.field, item.message) for item in refused.value.violations] == [
        ("touch_point", "no such channel")
    ]
    fake.fail("Advise", "RESOURCE_EXHAUSTED", retry_after=2.5)
    with pytest.raises(BusyError) as busy:
        crm.advise(NUMBER, "counter", request_id="visit-1")
    assert busy.value.retry_after == 2.5


def test_a_deadline_is_an_error_of_its_own() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        connect(f"127.0.0.1:{mute.getsockname()[1]}") as channel,
        pytest.raises(DeadlineError),
    ):
        CrmClient(channel).advise(NUMBER, "counter", request_id="visit-1", timeout=0.05)


def test_async_crm_client(fake: FakeOpportune) -> None:
    async def body() -> None:
        async with fake.connect_async() as channel:
            crm = AsyncCrmClient(channel)
            response = await crm.import_subscribers([SubscriberRecord(NUMBER)], NOON, ImportMode.UPSERT)
            assert response.imported_count == 1
            assert (await crm.get_subscriber(NUMBER)).subscriber_id == NUMBER
            assert not (await crm.advise(NUMBER, "counter", request_id="visit-1")).advices
            with pytest.raises(NotFoundError):
                await crm.report_outcome("d1", OutcomeKind.REFUSED)
            fake.fail("ImportSubscribers", "INVALID_ARGUMENT")
            with pytest.raises(RequestError):
                await crm.import_subscribers([SubscriberRecord(NUMBER)] * 5_000, NOON, ImportMode.UPSERT)

    in_loop(body)


# Operators


def test_a_rulebase_from_check_to_activation(
    fake: FakeOpportune, channel: grpc.Channel, tmp_path: Path
) -> None:
    (tmp_path / "rulebase.yaml").write_text("name: x\n")
    operator = OperatorClient(channel)
    checked = operator.check(tmp_path)
    assert checked.valid
    first = operator.upload(tmp_path).rulebase.revision
    assert first == checked.revision
    assert operator.upload(fake.archives[first]).already_known
    assert operator.activate(first).previous_revision == ""
    assert operator.get(include_archive=True).archive.data == fake.archives[first]

    (tmp_path / "rulebase.yaml").write_text("name: y\n")
    second = operator.upload(tmp_path, comment="better").rulebase.revision
    with pytest.raises(ConflictError):
        operator.activate(second)
    assert operator.activate(second, expected_current=first).previous_revision == first
    assert [rulebase.revision for rulebase in operator.list_rulebases(page_size=1)] == [second, first]
    with pytest.raises(NotFoundError):
        operator.get("f" * 64)


def test_a_revision_from_test_to_rollback(fake: FakeOpportune, channel: grpc.Channel) -> None:
    operator = OperatorClient(channel)
    first, second = (operator.upload(data).rulebase.revision for data in (b"a", b"b"))
    with pytest.raises(NotReadyError, match="before"):
        operator.rollback(expected_current="")
    operator.activate(first)
    assert not operator.test(second).passed, "there are none"
    fake.test_results.extend(
        rulebase_pb.TestCaseResult(file="tests/a_test.yaml", name=name, passed=True) for name in "xy"
    )
    assert [case.name for case in operator.test(second, only="x").results] == ["x"]
    assert operator.get(second).rulebase.state == RulebaseState.CHECKED, "part of its tests is not enough"
    assert operator.test(second).passed
    assert len(operator.test_archive(b"c").results) == 2
    assert [each.revision for each in operator.list_rulebases(state=RulebaseState.TESTED)] == [second]

    fake.rehearsal.append(rulebase_pb.RehearseRulebaseResponse(report={"event_count": 7}))
    (last,) = operator.rehearse(second, since=NOON)
    assert last.report.event_count == 7
    approved = operator.approve(second, comment="fine")
    assert (approved.state, approved.approver) == (RulebaseState.APPROVED, "fake")
    assert operator.approve(second) == approved
    fake.changes.append(rulebase_pb.RulebaseChange(element="campaign", name="x"))
    assert [change.name for change in operator.diff(second)] == ["x"]

    canary = operator.activate(
        second, expected_current=first, mode=ActivationMode.CANARY, canary_share=0.1, comment="ten"
    )
    assert [(each.revision, each.mode) for each in canary.activations] == [
        (first, ActivationMode.FULL),
        (second, ActivationMode.CANARY),
    ]
    assert (canary.previous_revision, canary.activation.canary_share) == (first, 0.1)
    operator.activate(second, expected_current=first, mode=ActivationMode.SHADOW)
    whole = operator.activate(second, expected_current=first)
    assert [each.revision for each in whole.activations] == [second], "it ends canary and shadow"
    assert operator.get(first).rulebase.state == RulebaseState.SUPERSEDED
    back = operator.rollback(expected_current=second, comment="too many")
    assert (back.activation.revision, back.previous_revision) == (first, second)
    assert [entry.action for entry in operator.get(second).history] == [
        *["activated"] * 3,
        *["approved", "rehearsed", "tested", "uploaded"],
    ]
    assert operator.get().history[0].action == "rolled-back"


def test_a_work_order_is_a_draft_with_names(fake: FakeOpportune, channel: grpc.Channel) -> None:
    operator = OperatorClient(channel)
    draft = operator.order(
        "4711", "campaign: x", scene_bindings={"payday": "scene.payday"}, base_revision="b", comment="plan"
    ).rulebase
    (order,) = fake.orders
    assert (order.order_id, order.document, order.base_revision) == ("4711", "campaign: x", "b")
    assert dict(order.scene_bindings) == {"payday": "scene.payday"}
    assert draft.comment == "plan"
    fake.rulebases[draft.revision].state = rulebase_pb.RULEBASE_STATE_DRAFT
    with pytest.raises(NotReadyError):
        operator.activate(draft.revision)


def test_a_watcher_is_told_of_what_is_and_of_each_change(
    fake: FakeOpportune, channel: grpc.Channel
) -> None:
    operator = OperatorClient(channel)
    revision = operator.upload(b"a").rulebase.revision
    told = operator.watch()
    assert next(told).kind == RulebaseEvent.SNAPSHOT
    operator.activate(revision)
    activated = next(told)
    assert activated.kind == RulebaseEvent.ACTIVATED
    assert [each.revision for each in activated.activations] == [revision]
    with pytest.raises(ConflictError):
        operator.activate(revision)
    failed = next(told)
    assert (failed.kind, failed.attempt.succeeded) == (RulebaseEvent.ACTIVATION_FAILED, False)
    operator.pause("x", "price")
    paused = next(told)
    assert (paused.kind, paused.campaign) == (RulebaseEvent.PAUSED, "x")
    assert [each.campaign for each in paused.paused_campaigns] == ["x"]
    operator.pause("x", "again")
    operator.resume("x")
    assert next(told).kind == RulebaseEvent.RESUMED, "pausing again changed nothing"
    fake.stop()
    with pytest.raises(UnavailableError):
        next(told)


def test_a_bad_rulebase_is_refused_with_its_problems(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.problems.append(
        rulebase_pb.Problem(file="a.yaml", severity=rulebase_pb.PROBLEM_SEVERITY_ERROR, message="odd")
    )
    operator = OperatorClient(channel)
    assert [problem.file for problem in operator.check(b"").problems] == ["a.yaml"]
    with pytest.raises(RequestError, match="odd"):
        operator.upload(b"")
    assert fake.archives == {}


def decision(number: int, campaign: str = "a") -> types_pb2.Decision:
    return types_pb2.Decision(
        decision_id=f"d{number}", campaign=campaign, reason=types_pb2.REASON_DECIDED, event_id=f"e{number}"
    )


def test_decisions_are_listed_page_by_page(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.decisions.extend(decision(n, "ab"[n % 2]) for n in range(7))
    operator = OperatorClient(channel)
    assert [item.decision_id for item in operator.list_decisions(page_size=3)] == [
        f"d{n}" for n in reversed(range(7))
    ]
    assert [item.decision_id for item in operator.list_decisions(campaign="b", page_size=2)] == [
        "d5",
        "d3",
        "d1",
    ]
    assert list(operator.list_decisions(reasons=[Reason.CAPPED])) == []


def test_reports_and_why_not_answer_what_the_test_laid_out(
    fake: FakeOpportune, channel: grpc.Channel
) -> None:
    operator = OperatorClient(channel)
    since = datetime(2026, 11, 1, tzinfo=UTC)
    fake.report.reports.add(campaign="a", matched_count=3)
    found = operator.report(["a"], since=since, until=since + timedelta(days=2), period="day")
    assert found == fake.report
    [asked] = fake.report_requests
    assert list(asked.campaigns) == ["a"]
    assert asked.period == insight_pb.REPORT_PERIOD_DAY
    assert asked.until.seconds - asked.since.seconds == 2 * 86_400
    operator.report(since=since)
    assert not fake.report_requests[1].HasField("until")

    fake.why_nots["8613800000001", "a"] = insight_pb.WhyNotResponse(summary="on x: capped")
    assert operator.why_not("8613800000001", "a").summary == "on x: capped"
    with pytest.raises(NotFoundError):
        operator.why_not("8613800000001", "b")


def test_decisions_are_followed_from_now_on(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.decisions.append(decision(0))
    later = iter([[decision(1), decision(2)], [], [decision(3)]])

    def pause(seconds: float) -> None:
        fake.decisions.extend(next(later))

    following = OperatorClient(channel).follow_decisions(pause=pause)
    assert [item.decision_id for item in islice(following, 3)] == ["d1", "d2", "d3"]


def test_explanations(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.decisions.append(decision(1))
    operator = OperatorClient(channel)
    assert operator.explain("d1").event_id == "e1"
    assert operator.explain_event("", "", "e1").decisions[0].decision_id == "d1"
    with pytest.raises(NotFoundError):
        operator.explain("d2")


def test_what_a_service_does_not_know_is_unsupported(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.fail("DiffRulebases", "UNIMPLEMENTED")
    with pytest.raises(UnsupportedError):
        OperatorClient(channel).diff("r")


def test_what_the_guide_says_to_operators_runs(
    fake: FakeOpportune, channel: grpc.Channel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = Path(__file__).parents[2] / "docs" / "guides" / "clients.md"
    section = guide.read_text(encoding="utf-8").partition("## Operate\n")[2].partition("\n## ")[0]
    (tmp_path / "rulebases" / "spring").mkdir(parents=True)
    (tmp_path / "rulebases" / "spring" / "rulebase.yaml").write_text("rulebase: spring\n")
    monkeypatch.chdir(tmp_path)
    winter = OperatorClient(channel).upload(b"winter").rulebase.revision
    OperatorClient(channel).activate(winter)
    fake.test_results.append(rulebase_pb.TestCaseResult(name="x", passed=True))
    names = {"channel": channel}
    code = re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    assert len(code) == 2
    for each in code:
        exec(each, names)  # noqa: S102
    assert fake.active_revision == winter
    assert [entry.action for entry in OperatorClient(channel).get().history][:1] == ["rolled-back"]
    assert fake.calls.count("ActivateRulebase") == 3
