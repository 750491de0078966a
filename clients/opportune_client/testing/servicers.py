# ruff: noqa: N802 - methods have the names of the contract
"""The fake's side of each service. Methods that are not here answer UNIMPLEMENTED."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from opportune.v1 import advice_service_pb2 as advice_pb
from opportune.v1 import event_service_pb2 as event_pb
from opportune.v1 import insight_service_pb2 as insight_pb
from opportune.v1 import rulebase_service_pb2 as rulebase_pb
from opportune.v1 import types_pb2
from opportune.v1.advice_service_pb2_grpc import AdviceServiceServicer
from opportune.v1.event_service_pb2_grpc import EventServiceServicer
from opportune.v1.insight_service_pb2_grpc import InsightServiceServicer
from opportune.v1.rulebase_service_pb2_grpc import RulebaseServiceServicer

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


class Rulebases(RulebaseServiceServicer):
    """Keeps archives by the hash of their bytes; finds the problems that the test laid out."""

    def __init__(self, state: State) -> None:
        self._state = state

    def CheckRulebase(
        self, request: rulebase_pb.CheckRulebaseRequest, context: Any
    ) -> rulebase_pb.CheckRulebaseResponse:
        self._state.enter("CheckRulebase", context)
        errors = self._errors()
        return rulebase_pb.CheckRulebaseResponse(
            valid=not errors,
            problems=self._state.problems,
            revision="" if errors else _revision(request.archive.data),
        )

    def UploadRulebase(
        self, request: rulebase_pb.UploadRulebaseRequest, context: Any
    ) -> rulebase_pb.UploadRulebaseResponse:
        self._state.enter("UploadRulebase", context)
        if errors := self._errors():
            violations = tuple((f"archive.{error.file}", error.message) for error in errors)
            abort(
                context, Failure("INVALID_ARGUMENT", "the rulebase has errors", "BAD_RULEBASE", violations)
            )
        revision = _revision(request.archive.data)
        with self._state.changed:
            known = revision in self._state.archives
            self._state.archives[revision] = request.archive.data
        return rulebase_pb.UploadRulebaseResponse(
            rulebase=rulebase_pb.Rulebase(revision=revision, comment=request.comment), already_known=known
        )

    def ActivateRulebase(
        self, request: rulebase_pb.ActivateRulebaseRequest, context: Any
    ) -> rulebase_pb.ActivateRulebaseResponse:
        state = self._state
        state.enter("ActivateRulebase", context)
        with state.changed:
            if request.revision not in state.archives:
                abort(context, Failure("NOT_FOUND", "no such revision", "UNKNOWN_REVISION"))
            if request.expected_current_revision != state.active_revision:
                abort(context, Failure("ABORTED", "another revision is in force", "REVISION_CHANGED"))
            before, state.active_revision = state.active_revision, request.revision
        activation = rulebase_pb.Activation(revision=request.revision, mode=request.mode)
        return rulebase_pb.ActivateRulebaseResponse(
            activation=activation, previous_revision=before, activations=[activation]
        )

    def GetRulebase(
        self, request: rulebase_pb.GetRulebaseRequest, context: Any
    ) -> rulebase_pb.GetRulebaseResponse:
        state = self._state
        state.enter("GetRulebase", context)
        revision = request.revision or state.active_revision
        if revision not in state.archives:
            abort(context, Failure("NOT_FOUND", "no such revision", "UNKNOWN_REVISION"))
        response = rulebase_pb.GetRulebaseResponse(rulebase=rulebase_pb.Rulebase(revision=revision))
        if request.include_archive:
            response.archive.data = state.archives[revision]
        response.rulebase.campaigns.extend(state.paused.values())
        return response

    def ListRulebases(
        self, request: rulebase_pb.ListRulebasesRequest, context: Any
    ) -> rulebase_pb.ListRulebasesResponse:
        self._state.enter("ListRulebases", context)
        revisions = list(reversed(self._state.archives))
        start = int(request.page_token or 0)
        end = start + (request.page_size or 50)
        return rulebase_pb.ListRulebasesResponse(
            rulebases=[rulebase_pb.Rulebase(revision=revision) for revision in revisions[start:end]],
            next_page_token=str(end) if end < len(revisions) else "",
        )

    def PauseCampaign(
        self, request: rulebase_pb.PauseCampaignRequest, context: Any
    ) -> rulebase_pb.PauseCampaignResponse:
        state = self._state
        state.enter("PauseCampaign", context)
        with state.changed:
            status = rulebase_pb.CampaignStatus(
                campaign=request.campaign, paused=True, paused_by="fake", pause_reason=request.reason
            )
            status = state.paused.setdefault(request.campaign, status)
        return rulebase_pb.PauseCampaignResponse(campaign=status)

    def ResumeCampaign(
        self, request: rulebase_pb.ResumeCampaignRequest, context: Any
    ) -> rulebase_pb.ResumeCampaignResponse:
        state = self._state
        state.enter("ResumeCampaign", context)
        with state.changed:
            state.paused.pop(request.campaign, None)
        status = rulebase_pb.CampaignStatus(campaign=request.campaign)
        return rulebase_pb.ResumeCampaignResponse(campaign=status)

    def _errors(self) -> list[rulebase_pb.Problem]:
        error = rulebase_pb.PROBLEM_SEVERITY_ERROR
        return [problem for problem in self._state.problems if problem.severity == error]


class Insight(InsightServiceServicer):
    """Lists and explains the decisions that the test laid out, in order of recording."""

    def __init__(self, state: State) -> None:
        self._state = state

    def ExplainDecision(
        self, request: insight_pb.ExplainDecisionRequest, context: Any
    ) -> insight_pb.ExplainDecisionResponse:
        self._state.enter("ExplainDecision", context)
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


def _revision(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
