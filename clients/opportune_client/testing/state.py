"""What the fake remembers and what it was told to do; read and written under `changed`."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from opportune.v1 import advice_service_pb2 as advice_pb
from opportune.v1 import delivery_service_pb2 as delivery_pb
from opportune.v1 import event_service_pb2 as event_pb
from opportune.v1 import insight_service_pb2 as insight_pb
from opportune.v1 import rulebase_service_pb2 as rulebase_pb
from opportune.v1 import subscriber_service_pb2 as subscriber_pb
from opportune.v1 import types_pb2


@dataclass(frozen=True, slots=True)
class Failure:
    """How a call is to fail."""

    code: str
    message: str
    reason: str = ""
    violations: tuple[tuple[str, str], ...] = ()
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Break:
    """Ends an event stream after so many batches of it; the last one acknowledged or not."""

    after_batches: int
    acknowledge: bool


@dataclass(slots=True)
class Delivery:
    """A message for a channel client. `token` is empty while nobody holds it."""

    lease: delivery_pb.Lease
    token: str = ""
    done: bool = False


@dataclass(slots=True)
class State:
    """All of it. See `FakeOpportune` for what a test may do with it."""

    window: int
    max_batch_size: int
    max_credit: int
    changed: threading.Condition = field(default_factory=threading.Condition)
    stopping: bool = False

    events: list[event_pb.Event] = field(default_factory=list)
    known: set[tuple[str, str]] = field(default_factory=set)
    batch_sizes: list[int] = field(default_factory=list)
    hellos: list[event_pb.EventStreamHello] = field(default_factory=list)
    rejections: dict[str, types_pb2.Rejection] = field(default_factory=dict)
    breaks: deque[Break] = field(default_factory=deque)
    holding: bool = False

    deliveries: list[Delivery] = field(default_factory=list)
    leases: list[delivery_pb.Lease] = field(default_factory=list)
    acks: list[delivery_pb.Ack] = field(default_factory=list)
    receipts: list[delivery_pb.Receipt] = field(default_factory=list)
    channel_breaks: int = 0
    dead_letters: list[delivery_pb.DeadLetter] = field(default_factory=list)

    advices: list[advice_pb.Advice] = field(default_factory=list)
    visits: list[advice_pb.AdviseRequest] = field(default_factory=list)
    outcomes: list[advice_pb.ReportOutcomeRequest] = field(default_factory=list)

    subscribers: dict[str, subscriber_pb.SubscriberRecord] = field(default_factory=dict)
    import_headers: list[subscriber_pb.ImportHeader] = field(default_factory=list)
    consents: dict[tuple[str, str], types_pb2.Consent] = field(default_factory=dict)
    contacts: dict[tuple[str, str], subscriber_pb.RecordedContact] = field(default_factory=dict)
    views: dict[str, subscriber_pb.ContactView] = field(default_factory=dict)
    exports: list[subscriber_pb.ExportedContact] = field(default_factory=list)

    problems: list[rulebase_pb.Problem] = field(default_factory=list)
    archives: dict[str, bytes] = field(default_factory=dict)
    orders: list[rulebase_pb.WorkOrder] = field(default_factory=list)
    rulebases: dict[str, rulebase_pb.Rulebase] = field(default_factory=dict)
    history: dict[str, list[rulebase_pb.HistoryEntry]] = field(default_factory=lambda: defaultdict(list))
    activations: list[rulebase_pb.Activation] = field(default_factory=list)
    last_attempt: rulebase_pb.ActivationAttempt | None = None
    full: list[str] = field(default_factory=list)
    news: list[rulebase_pb.WatchRulebaseResponse] = field(default_factory=list)
    test_results: list[rulebase_pb.TestCaseResult] = field(default_factory=list)
    rehearsal: list[rulebase_pb.RehearseRulebaseResponse] = field(default_factory=list)
    changes: list[rulebase_pb.RulebaseChange] = field(default_factory=list)
    paused: dict[str, rulebase_pb.CampaignStatus] = field(default_factory=dict)
    decisions: list[types_pb2.Decision] = field(default_factory=list)
    why_nots: dict[tuple[str, str], insight_pb.WhyNotResponse] = field(default_factory=dict)
    report: insight_pb.GetCampaignReportResponse = field(
        default_factory=insight_pb.GetCampaignReportResponse
    )
    report_requests: list[insight_pb.GetCampaignReportRequest] = field(default_factory=list)
    quarantine: list[insight_pb.QuarantinedEvent] = field(default_factory=list)

    failures: dict[str, deque[Failure]] = field(default_factory=lambda: defaultdict(deque))
    calls: list[str] = field(default_factory=list)

    def enter(self, method: str, context: grpc.ServicerContext) -> None:
        """Notes a call, and fails it if the test said so."""
        with self.changed:
            self.calls.append(method)
            failure = self.failures[method].popleft() if self.failures[method] else None
            self.changed.notify_all()
        if failure is not None:
            abort(context, failure)

    @property
    def active_revision(self) -> str:
        """The revision in full force; empty if none is."""
        return self.full[-1] if self.full else ""

    def publish(self, source: str, events: Sequence[event_pb.Event]) -> event_pb.EventBatchResult:
        """Takes a batch in, as the service does: duplicates and rejections one by one."""
        result = event_pb.EventBatchResult(revision=self.active_revision)
        for index, event in enumerate(events):
            if (rejection := self.rejections.get(event.id)) is not None:
                result.rejections.add().CopyFrom(rejection)
                result.rejections[-1].index = index
            elif (source, event.id) in self.known:
                result.duplicate_count += 1
            else:
                self.known.add((source, event.id))
                self.events.append(event)
                result.accepted_count += 1
        self.batch_sizes.append(len(events))
        self.changed.notify_all()
        return result


def abort(context: grpc.ServicerContext, failure: Failure) -> NoReturn:
    """Ends a call as the service does, with the details that it gives."""
    details: list[Message] = []
    if failure.reason:
        details.append(error_details_pb2.ErrorInfo(reason=failure.reason, domain="opportune.v1"))
    if failure.violations:
        request = error_details_pb2.BadRequest()
        for name, description in failure.violations:
            request.field_violations.add(field=name, description=description)
        details.append(request)
    if failure.retry_after is not None:
        delay = Duration()
        delay.FromMicroseconds(int(failure.retry_after * 1e6))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=code_pb2.Code.Value(failure.code), message=failure.message)
    for detail in details:
        status.details.add().Pack(detail)
    trailer: Any = (("grpc-status-details-bin", status.SerializeToString()),)
    context.set_trailing_metadata(trailer)
    context.abort(grpc.StatusCode[failure.code], failure.message)
    raise AssertionError("abort always raises")
