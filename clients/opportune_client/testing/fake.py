"""The fake service itself: a real gRPC server on a loopback port, with scripted answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self, cast

import grpc
from grpc import aio
from opportune.v1 import advice_service_pb2 as advice_pb
from opportune.v1 import delivery_service_pb2 as delivery_pb
from opportune.v1 import event_service_pb2 as event_pb
from opportune.v1 import insight_service_pb2 as insight_pb
from opportune.v1 import rulebase_service_pb2 as rulebase_pb
from opportune.v1 import subscriber_service_pb2 as subscriber_pb
from opportune.v1 import types_pb2
from opportune.v1.advice_service_pb2_grpc import add_AdviceServiceServicer_to_server
from opportune.v1.delivery_service_pb2_grpc import add_DeliveryServiceServicer_to_server
from opportune.v1.event_service_pb2_grpc import add_EventServiceServicer_to_server
from opportune.v1.insight_service_pb2_grpc import add_InsightServiceServicer_to_server
from opportune.v1.rulebase_service_pb2_grpc import add_RulebaseServiceServicer_to_server
from opportune.v1.subscriber_service_pb2_grpc import add_SubscriberServiceServicer_to_server

from opportune_client.connection import connect, connect_async
from opportune_client.testing.deliveries import Deliveries
from opportune_client.testing.rulebases import Rulebases
from opportune_client.testing.servicers import Advice, Events, Insight
from opportune_client.testing.state import Break, Delivery, Failure, State
from opportune_client.testing.subscribers import Subscribers
from opportune_client.times import to_timestamp
from opportune_client.words import RejectionReason

PATIENCE = 10.0
"""Seconds that `wait_for` waits before it gives up."""


class FakeOpportune:
    """A service that decides nothing: it takes in what clients send and answers as it was told.

    Use it in a `with` statement. It knows no rulebase: every event is accepted unless the test says
    otherwise, an event known by source and id is a duplicate. The properties return what clients sent
    so far; `advices`, `problems`, `test_results`, `rehearsal`, `changes`, `decisions`, `quarantine` and
    `dead_letters` are lists to put answers into before they are asked for.

    `window` and `max_batch_size` go into the welcome of an event stream, `max_credit` and
    `lease_seconds` into that of a channel. Leases do not expire by themselves; see `expire_leases`.
    """

    def __init__(
        self,
        *,
        window: int = 4,
        max_batch_size: int = 1_000,
        max_credit: int = 100,
        lease_seconds: float = 30,
    ) -> None:
        self._state = State(window, max_batch_size, max_credit)
        self._lease_seconds = lease_seconds
        self._port = 0
        self._server: grpc.Server | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def target(self) -> str:
        """Where it listens, for `connect`; the same after a restart."""
        return f"127.0.0.1:{self._port}"

    def connect(self) -> grpc.Channel:
        """A channel to it for synchronous clients. Close it."""
        return connect(self.target)

    def connect_async(self) -> aio.Channel:
        """A channel to it for asyncio clients. Close it."""
        return connect_async(self.target)

    def start(self) -> None:
        """Listen again after `stop`, on the same port and with everything remembered."""
        self._state.stopping = False
        server = grpc.server(
            ThreadPoolExecutor(16, "fake-opportune"),
            options=[("grpc.http2.min_ping_interval_without_data_ms", 10_000)],
        )
        add_EventServiceServicer_to_server(Events(self._state), server)
        add_AdviceServiceServicer_to_server(Advice(self._state), server)
        add_SubscriberServiceServicer_to_server(Subscribers(self._state), server)
        add_DeliveryServiceServicer_to_server(Deliveries(self._state, self._lease_seconds), server)
        add_RulebaseServiceServicer_to_server(Rulebases(self._state), server)
        add_InsightServiceServicer_to_server(Insight(self._state), server)
        self._port = server.add_insecure_port(f"127.0.0.1:{self._port}")
        server.start()
        self._server = server

    def stop(self) -> None:
        """Vanish, as a service that is killed: streams break, calls fail, nothing is forgotten."""
        if self._server is None:
            return
        with self._state.changed:
            self._state.stopping = True
            self._state.holding = False
            self._state.changed.notify_all()
        self._server.stop(None).wait()
        self._server = None

    def wait_for(self, predicate: Callable[[], bool]) -> None:
        """Wait until something that clients send makes `predicate` true; TimeoutError after 10 s."""
        with self._state.changed:
            if not self._state.changed.wait_for(predicate, PATIENCE):
                raise TimeoutError("clients did not do what was waited for")

    def fail(
        self,
        method: str,
        code: str = "UNAVAILABLE",
        *,
        message: str = "the test wants it so",
        reason: str = "",
        violations: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        times: int = 1,
    ) -> None:
        """Let the next calls of a method (such as "Advise") fail with this status code."""
        failure = Failure(code, message, reason, tuple((violations or {}).items()), retry_after)
        with self._state.changed:
            self._state.failures[method].extend([failure] * times)

    @property
    def calls(self) -> list[str]:
        """The methods that were called, in order, streams once each."""
        return self._state.calls

    # Collectors

    @property
    def events(self) -> list[event_pb.Event]:
        """The events that were taken in, each once, in order of arrival."""
        return self._state.events

    @property
    def batch_sizes(self) -> list[int]:
        """How many events came in each batch, repeated ones included."""
        return self._state.batch_sizes

    @property
    def hellos(self) -> list[event_pb.EventStreamHello]:
        """The hello of each event stream."""
        return self._state.hellos

    def reject(self, event_id: str, reason: RejectionReason, message: str = "the test rejects it") -> None:
        """Reject the event with this id whenever it comes."""
        with self._state.changed:
            self._state.rejections[event_id] = types_pb2.Rejection(
                id=event_id,
                reason=cast("types_pb2.RejectionReason.ValueType", int(reason)),
                message=message,
            )

    def break_stream(self, after_batches: int, *, acknowledge: bool = False) -> None:
        """Break an event stream once it has taken in so many batches, the last one unacknowledged unless
        told otherwise. Each call is for one stream, in the order in which they are opened."""
        with self._state.changed:
            self._state.breaks.append(Break(after_batches, acknowledge))

    def hold_acks(self, holding: bool = True) -> None:
        """Take batches in but acknowledge none, until `hold_acks(False)`."""
        with self._state.changed:
            self._state.holding = holding
            self._state.changed.notify_all()

    # Channels

    def lease(
        self,
        channel: str,
        subscriber_id: str,
        content: str,
        *,
        campaign: str = "campaign",
        product: str = "product",
        expires_at: datetime | None = None,
    ) -> str:
        """Lay out a message for a channel; the id of its decision. It lasts an hour unless told
        otherwise."""
        with self._state.changed:
            number = len(self._state.deliveries) + 1
            lease = delivery_pb.Lease(
                delivery_id=f"delivery-{number}",
                decision_id=f"decision-{number}",
                idempotency_key=f"key-{number}",
                subscriber_id=subscriber_id,
                channel=channel,
                campaign=campaign,
                product=product,
                content=content,
                expires_at=to_timestamp(expires_at or datetime.now(UTC) + timedelta(hours=1)),
            )
            self._state.deliveries.append(Delivery(lease))
            self._state.changed.notify_all()
            return lease.decision_id

    def expire_leases(self) -> None:
        """End all leases: their messages are handed out again, and late acks are refused."""
        with self._state.changed:
            for delivery in self._state.deliveries:
                delivery.token = ""
            self._state.changed.notify_all()

    def break_channels(self) -> None:
        """Break the streams of all channel clients that are attached now."""
        with self._state.changed:
            self._state.channel_breaks += 1
            self._state.changed.notify_all()

    @property
    def leases(self) -> list[delivery_pb.Lease]:
        """The leases that were handed out, each attempt of a message once."""
        return self._state.leases

    @property
    def acks(self) -> list[delivery_pb.Ack]:
        """The acks that were accepted."""
        return self._state.acks

    @property
    def receipts(self) -> list[delivery_pb.Receipt]:
        """The receipts that were accepted."""
        return self._state.receipts

    # Business systems

    @property
    def subscribers(self) -> dict[str, subscriber_pb.SubscriberRecord]:
        """What was imported, by number; put records in to have them known."""
        return self._state.subscribers

    @property
    def import_headers(self) -> list[subscriber_pb.ImportHeader]:
        """The header of each import."""
        return self._state.import_headers

    @property
    def consents(self) -> dict[tuple[str, str], types_pb2.Consent]:
        """The consents in force, by number and scope."""
        return self._state.consents

    @property
    def contacts(self) -> dict[tuple[str, str], subscriber_pb.RecordedContact]:
        """The contacts that other systems recorded, by system and id."""
        return self._state.contacts

    @property
    def views(self) -> dict[str, subscriber_pb.ContactView]:
        """The contact views that can be asked for, by number; of anybody else it is empty."""
        return self._state.views

    @property
    def exports(self) -> list[subscriber_pb.ExportedContact]:
        """What can be exported, in order of recording; each in a piece of its own."""
        return self._state.exports

    @property
    def advices(self) -> list[advice_pb.Advice]:
        """What Advise answers."""
        return self._state.advices

    @property
    def visits(self) -> list[advice_pb.AdviseRequest]:
        """The visits that were recorded, each request id once."""
        return self._state.visits

    @property
    def outcomes(self) -> list[advice_pb.ReportOutcomeRequest]:
        """The outcomes that were reported, each once."""
        return self._state.outcomes

    # Operators

    @property
    def problems(self) -> list[rulebase_pb.Problem]:
        """What is found wrong with every rulebase."""
        return self._state.problems

    @property
    def archives(self) -> dict[str, bytes]:
        """The rulebases that were uploaded, by revision."""
        return self._state.archives

    @property
    def orders(self) -> list[rulebase_pb.WorkOrder]:
        """The work orders that were uploaded, each once."""
        return self._state.orders

    @property
    def rulebases(self) -> dict[str, rulebase_pb.Rulebase]:
        """What is known of each revision; change one to have it answered so."""
        return self._state.rulebases

    @property
    def activations(self) -> list[rulebase_pb.Activation]:
        """What is in force, full first."""
        return self._state.activations

    @property
    def active_revision(self) -> str:
        """The revision in full force; empty if none is."""
        return self._state.active_revision

    @property
    def test_results(self) -> list[rulebase_pb.TestCaseResult]:
        """How the tests of every rulebase end. Empty: it has none, and none passes."""
        return self._state.test_results

    @property
    def rehearsal(self) -> list[rulebase_pb.RehearseRulebaseResponse]:
        """What every rehearsal says."""
        return self._state.rehearsal

    @property
    def changes(self) -> list[rulebase_pb.RulebaseChange]:
        """What changes from any revision to any other."""
        return self._state.changes

    @property
    def paused(self) -> dict[str, rulebase_pb.CampaignStatus]:
        """The campaigns that are paused, by name; any name will do."""
        return self._state.paused

    @property
    def decisions(self) -> list[types_pb2.Decision]:
        """What can be listed and explained, in order of recording."""
        return self._state.decisions

    @property
    def why_nots(self) -> dict[tuple[str, str], insight_pb.WhyNotResponse]:
        """What WhyNot answers, by number and campaign; for any other there is no such campaign."""
        return self._state.why_nots

    @property
    def report(self) -> insight_pb.GetCampaignReportResponse:
        """What GetCampaignReport answers, whatever time is asked for."""
        return self._state.report

    @property
    def report_requests(self) -> list[insight_pb.GetCampaignReportRequest]:
        """The reports that were asked for."""
        return self._state.report_requests

    @property
    def quarantine(self) -> list[insight_pb.QuarantinedEvent]:
        """The rejected events that can be listed, in order of receipt."""
        return self._state.quarantine

    @property
    def dead_letters(self) -> list[delivery_pb.DeadLetter]:
        """The deliveries that ran out of attempts, the oldest decision first. Redriving takes them out."""
        return self._state.dead_letters
