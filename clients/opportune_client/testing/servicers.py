# ruff: noqa: N802 - methods have the names of the contract
"""The fake's side of events, advice and insight."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from opportune.v1 import advice_service_pb2 as advice_pb
from opportune.v1 import event_service_pb2 as event_pb
from opportune.v1 import insight_service_pb2 as insight_pb
from opportune.v1 import types_pb2
from opportune.v1.advice_service_pb2_grpc import AdviceServiceServicer
from opportune.v1.event_service_pb2_grpc import EventServiceServicer
from opportune.v1.insight_service_pb2_grpc import InsightServiceServicer

from opportune_client.testing.state import Failure, State, abort


class Events(EventServiceServicer):
    """Takes events in, breaks streams and holds acknowledgements back on request."""

    def __init__(self, state: State) -> None:
        self._state = state

    def PublishEvents(
        self, request: event_pb.PublishEventsRequest, context: Any
    ) -> event_pb.PublishEventsResponse:
        self._state.enter("PublishEvents", context)
        with self._state.changed:
            result = self._state.publish(request.source, request.events)
        return event_pb.PublishEventsResponse(
            accepted_count=result.accepted_count,
            duplicate_count=result.duplicate_count,
            rejections=result.rejections,
            revision=result.revision,
        )

    def StreamEvents(self, request_iterator: Any, context: Any) -> Iterator[event_pb.StreamEventsResponse]:
        state = self._state
        state.enter("StreamEvents", context)
        hello = next(request_iterator).hello
        with state.changed:
            state.hellos.append(hello)
            planned = state.breaks.popleft() if state.breaks else None
        welcome = event_pb.EventStreamWelcome(
            max_batches_in_flight=state.window, max_batch_size=state.max_batch_size
        )
        yield event_pb.StreamEventsResponse(welcome=welcome)
        for batches, request in enumerate(request_iterator, 1):
            if request.batch.number != batches:
                abort(context, Failure("INVALID_ARGUMENT", "batches are numbered 1, 2, 3 ..."))
            with state.changed:
                result = state.publish(hello.source, request.batch.events)
                state.changed.wait_for(lambda: not state.holding or not context.is_active())
            result.number = batches
            last = planned is not None and batches >= planned.after_batches
            if planned is None or not last or planned.acknowledge:
                ack = event_pb.EventStreamAck(
                    acked_number=batches, results=[result], max_batches_in_flight=state.window
                )
                yield event_pb.StreamEventsResponse(ack=ack)
            if last:
                abort(context, Failure("UNAVAILABLE", "the test breaks the stream"))


class Advice(AdviceServiceServicer):
    """Answers with the advices that the test laid out."""

    def __init__(self, state: State) -> None:
        self._state = state

    def Advise(self, request: advice_pb.AdviseRequest, context: Any) -> advice_pb.AdviseResponse:
        state = self._state
        state.enter("Advise", context)
        with state.changed:
            if request.request_id not in {visit.request_id for visit in state.visits}:
                state.visits.append(request)
            advices = list(state.advices)
        return advice_pb.AdviseResponse(
            advices=advices, source=request.touch_point, revision=state.active_revision
        )

    def ReportOutcome(
        self, request: advice_pb.ReportOutcomeRequest, context: Any
    ) -> advice_pb.ReportOutcomeResponse:
        state = self._state
        state.enter("ReportOutcome", context)
        with state.changed:
            if request.decision_id not in {advice.decision_id for advice in state.advices}:
                abort(context, Failure("NOT_FOUND", "no such decision", "UNKNOWN_DECISION"))
            said = {(outcome.decision_id, outcome.kind) for outcome in state.outcomes}
            known = (request.decision_id, request.kind) in said
            if not known:
                state.outcomes.append(request)
        return advice_pb.ReportOutcomeResponse(already_known=known)


class Insight(InsightServiceServicer):
    """Lists and explains the decisions that the test laid out, in order of recording."""

    def __init__(self, state: State) -> None:
        self._state = state

    def ExplainDecision(
        self, request: insight_pb.ExplainDecisionRequest, context: Any
    ) -> insight_pb.ExplainDecisionResponse:
        self._state.enter("ExplainDecision", context)
        _refuse_shadow(request.shadow, context)
        key = request.event
        with self._state.changed:
            found = [
                decision
                for decision in self._state.decisions
                if decision.decision_id == request.decision_id
                or (decision.subscriber_id, decision.source, decision.event_id)
                == (key.subscriber_id, key.source, key.event_id)
            ]
        if not found:
            abort(context, Failure("NOT_FOUND", "no such decision", "UNKNOWN_DECISION"))
        verdict = types_pb2.Verdict(
            subscriber_id=found[0].subscriber_id,
            source=found[0].source,
            event_id=found[0].event_id,
            decisions=found,
        )
        return insight_pb.ExplainDecisionResponse(verdict=verdict)

    def ListDecisions(
        self, request: insight_pb.ListDecisionsRequest, context: Any
    ) -> insight_pb.ListDecisionsResponse:
        self._state.enter("ListDecisions", context)
        _refuse_shadow(request.shadow, context)
        size = request.page_size or 50
        with self._state.changed:
            decisions = list(self._state.decisions)
        if request.after:
            start = int(request.after)
            some = decisions[start : start + size]
            return insight_pb.ListDecisionsResponse(
                decisions=[decision for decision in some if _wanted(decision, request)],
                cursor=str(start + len(some)),
            )
        wanted = [decision for decision in reversed(decisions) if _wanted(decision, request)]
        start = int(request.page_token or 0)
        end = start + size
        return insight_pb.ListDecisionsResponse(
            decisions=wanted[start:end],
            next_page_token=str(end) if end < len(wanted) else "",
            cursor=str(len(decisions)),
        )

    def WhyNot(self, request: insight_pb.WhyNotRequest, context: Any) -> insight_pb.WhyNotResponse:
        self._state.enter("WhyNot", context)
        with self._state.changed:
            found = self._state.why_nots.get((request.subscriber_id, request.campaign))
        if found is None:
            abort(context, Failure("NOT_FOUND", "no such campaign", "NOT_FOUND"))
        return found

    def GetCampaignReport(
        self, request: insight_pb.GetCampaignReportRequest, context: Any
    ) -> insight_pb.GetCampaignReportResponse:
        self._state.enter("GetCampaignReport", context)
        with self._state.changed:
            self._state.report_requests.append(request)
            return self._state.report

    def ListQuarantine(
        self, request: insight_pb.ListQuarantineRequest, context: Any
    ) -> insight_pb.ListQuarantineResponse:
        self._state.enter("ListQuarantine", context)
        with self._state.changed:
            rejected = [each for each in reversed(self._state.quarantine) if _kept(each, request)]
        start = int(request.page_token or 0)
        end = start + (request.page_size or 50)
        return insight_pb.ListQuarantineResponse(
            events=rejected[start:end], next_page_token=str(end) if end < len(rejected) else ""
        )


def _refuse_shadow(asked: bool, context: Any) -> None:
    """The fake has none."""
    if asked:
        words = "no revision was ever activated as a shadow: nothing is decided in one"
        abort(context, Failure("FAILED_PRECONDITION", words, "NOT_READY"))


def _kept(rejected: insight_pb.QuarantinedEvent, request: insight_pb.ListQuarantineRequest) -> bool:
    return request.source in {"", rejected.source} and (
        not request.reasons or rejected.reason in request.reasons
    )


def _wanted(decision: types_pb2.Decision, request: insight_pb.ListDecisionsRequest) -> bool:
    return (
        request.subscriber_id in {"", decision.subscriber_id}
        and request.campaign in {"", decision.campaign}
        and (not request.reasons or decision.reason in request.reasons)
    )
