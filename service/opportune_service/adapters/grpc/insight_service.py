"""What operators and analysts ask. Writes nothing."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from opportune.v1 import event_service_pb2 as event_pb
from opportune.v1 import insight_service_pb2 as pb
from opportune.v1 import types_pb2 as types

from opportune_service.adapters.grpc.decisions import best_first, decision_message, verdict_message
from opportune_service.adapters.grpc.errors import UnsupportedError
from opportune_service.adapters.grpc.handlers import Context
from opportune_service.adapters.grpc.reports import report_message
from opportune_service.adapters.grpc.revisions import rulebase_of
from opportune_service.adapters.grpc.use_cases import UseCases
from opportune_service.adapters.grpc.words import (
    ENCODINGS,
    REASONS,
    REJECTIONS,
    check_length,
    check_subscriber,
    chosen,
    encoding_number,
    microseconds,
    page_size,
    read_cursor,
    rejection_number,
    searched_time,
    timestamp,
)
from opportune_service.app.errors import InvalidRequestError
from opportune_service.app.insight import Explanation, Insight
from opportune_service.app.records import DecisionFilter, Quarantined, QuarantineFilter
from opportune_service.app.report import Period, report
from opportune_service.app.why_not import why_not
from opportune_service.core.events import Encoding, Event
from opportune_service.core.verdict import EventKey, Reason
from opportune_service.core.why_not import SUPPOSED

_PERIODS: dict[int, Period] = {
    pb.REPORT_PERIOD_UNSPECIFIED: Period.WHOLE,
    pb.REPORT_PERIOD_HOUR: Period.HOUR,
    pb.REPORT_PERIOD_DAY: Period.DAY,
    pb.REPORT_PERIOD_WEEK: Period.WEEK,
}
_LATEST_US = 221_845_392_000_000_000  # the year 9000
_REJECTION_REASONS = frozenset(types.RejectionReason.values()) - {types.REJECTION_REASON_UNSPECIFIED}


class InsightService:
    """See the contract."""

    def __init__(self, app: UseCases) -> None:
        self._app = app
        self._insight = app.insight

    async def ExplainDecision(  # noqa: N802
        self, request: pb.ExplainDecisionRequest, _: Context
    ) -> pb.ExplainDecisionResponse:
        insight = await self._asked(request)
        match request.WhichOneof("target"):
            case "decision_id":
                check_length("decision_id", request.decision_id, 64, least=1)
                found = await insight.explain_decision(request.decision_id)
            case "event":
                check_subscriber("event.subscriber_id", request.event.subscriber_id)
                key = EventKey(request.event.subscriber_id, request.event.source, request.event.event_id)
                found = await insight.explain_event(key)
            case _:
                raise InvalidRequestError("target", "name a decision_id or an event")
        verdict = found.verdict
        rulebase = await rulebase_of(self._app, verdict.revision)
        messages = []
        for decision in best_first(verdict.decisions):
            state, outcomes = None, found.outcomes[:0]
            if decision.reason in (Reason.DECIDED, Reason.CONTROL):  # others can have no outcome
                own = found
                if decision.id != found.decision_id:
                    own = await insight.explain_decision(decision.id)
                state, outcomes = own.delivery and own.delivery[0], own.outcomes
            messages.append(decision_message(verdict, decision, rulebase, state, outcomes, trace=True))
        return pb.ExplainDecisionResponse(verdict=verdict_message(verdict, messages))

    async def ListDecisions(  # noqa: N802
        self, request: pb.ListDecisionsRequest, _: Context
    ) -> pb.ListDecisionsResponse:
        where, insight = _filter(request), await self._asked(request)
        size = page_size(request.page_size)
        if request.page_token and request.after:
            raise InvalidRequestError("after", "give page_token or after, not both")
        if request.after:
            after = read_cursor("after", request.after)
            rows = await insight.decisions(where, after, size, newest_first=False)
            cursor, next_page = (rows[-1].cursor if rows else after), 0
        else:
            # Read before the page, so that nothing is recorded between the two and missed.
            cursor = await insight.decided_up_to()
            before = read_cursor("page_token", request.page_token) if request.page_token else 0
            rows = await insight.decisions(where, before, size, newest_first=True)
            next_page = rows[-1].cursor if len(rows) == size else 0
        explained = await insight.explain_rows(rows)
        return pb.ListDecisionsResponse(
            decisions=[await self._listed(each, request.include_trace) for each in explained],
            next_page_token=str(next_page) if next_page else "",
            cursor=str(cursor),
        )

    async def WhyNot(  # noqa: N802
        self, request: pb.WhyNotRequest, _: Context
    ) -> pb.WhyNotResponse:
        check_subscriber("subscriber_id", request.subscriber_id)
        app, event = self._app, None
        if request.HasField("event"):
            encoding = chosen(ENCODINGS, request.attributes_encoding, "attributes_encoding")
            event = _supposed(request.event, request.subscriber_id, encoding, app.clock.now_us())
        app.ingest.check_whole()
        found = await why_not(
            app.live,
            app.states,
            app.ledger,
            app.thread,
            app.clock,
            request.subscriber_id,
            request.campaign,
            event,
        )
        rulebase = await rulebase_of(self._app, found.revision)
        decisions = []
        for answer in found.answers:
            message = decision_message(answer.verdict, answer.decision, rulebase, None, (), trace=True)
            message.decision_id = ""
            if not answer.matched:
                message.reason, message.fate = types.REASON_UNSPECIFIED, types.FATE_UNSPECIFIED
            decisions.append(message)
        return pb.WhyNotResponse(
            would_decide=any(answer.would_decide for answer in found.answers),
            summary="; ".join(answer.summary for answer in found.answers),
            decisions=decisions,
            revision=found.revision,
        )

    async def GetCampaignReport(  # noqa: N802
        self, request: pb.GetCampaignReportRequest, _: Context
    ) -> pb.GetCampaignReportResponse:
        if not request.HasField("since"):
            raise InvalidRequestError("since", "since is required: when the report begins")
        app = self._app
        until_us = app.clock.now_us()
        if request.HasField("until"):
            until_us = _report_time("until", request.until)
        shadow = request.shadow
        made = await report(
            app.live,
            await app.shadow.ledger() if shadow else app.ledger,
            app.shadow.thread if shadow else app.thread,
            request.campaigns,
            _report_time("since", request.since),
            until_us,
            chosen(_PERIODS, request.period, "period"),
            of_shadow=shadow,
        )
        return report_message(made)

    async def ListQuarantine(  # noqa: N802
        self, request: pb.ListQuarantineRequest, _: Context
    ) -> pb.ListQuarantineResponse:
        check_length("source", request.source, 64)
        where = QuarantineFilter(
            source=request.source,
            reasons=tuple(
                REJECTIONS[number] for number in dict.fromkeys(request.reasons) if number in REJECTIONS
            ),
            from_us=searched_time("since", request.since) if request.HasField("since") else 0,
            to_us=searched_time("until", request.until) if request.HasField("until") else 0,
        )
        size = page_size(request.page_size)
        before = read_cursor("page_token", request.page_token) if request.page_token else 0
        if any(number not in _REJECTION_REASONS for number in request.reasons):
            raise InvalidRequestError("reasons", "reasons must be those of the contract")
        if request.reasons and not where.reasons:
            return pb.ListQuarantineResponse()  # reasons for which no event is rejected
        rows = await self._insight.quarantined(where, before, size)
        return pb.ListQuarantineResponse(
            events=[_quarantined(each) for _, each in rows],
            next_page_token=str(rows[-1][0]) if len(rows) == size else "",
        )

    async def _asked(self, request: pb.ExplainDecisionRequest | pb.ListDecisionsRequest) -> Insight:
        """Into what was decided in force, or by the shadow."""
        if not request.shadow:
            return self._insight
        return Insight(await self._app.shadow.ledger(), self._app.shadow.thread)

    async def _listed(self, explained: Explanation, trace: bool) -> types.Decision:
        verdict = explained.verdict
        decision = next(each for each in verdict.decisions if each.id == explained.decision_id)
        return decision_message(
            verdict,
            decision,
            await rulebase_of(self._app, verdict.revision),
            explained.delivery and explained.delivery[0],
            explained.outcomes,
            trace=trace,
        )


def _filter(request: pb.ListDecisionsRequest) -> DecisionFilter:
    if request.revision:
        raise UnsupportedError("ListDecisionsRequest.revision")
    if request.subscriber_id:
        check_subscriber("subscriber_id", request.subscriber_id)
    return DecisionFilter(
        subscriber_id=request.subscriber_id,
        campaign=request.campaign,
        reasons=tuple(chosen(REASONS, number, "reasons") for number in dict.fromkeys(request.reasons)),
        from_us=searched_time("since", request.since) if request.HasField("since") else 0,
        to_us=searched_time("until", request.until) if request.HasField("until") else 0,
    )


def _report_time(field: str, instant: Timestamp) -> int:
    """The instant, which must lie where every time zone has a date."""
    at_us = microseconds(instant)
    if not 0 <= at_us < _LATEST_US:
        raise InvalidRequestError(field, f"{field} must be a time from 1970 to 9000")
    return at_us


def _supposed(sent: event_pb.Event, subscriber_id: str, encoding: Encoding, now_us: int) -> Event:
    at_us = microseconds(sent.occurred_at) if sent.HasField("occurred_at") else now_us
    return Event(
        SUPPOSED, subscriber_id, sent.type, at_us, sent.attributes, sent.cell_id, sent.imei, encoding
    )


def _quarantined(rejected: Quarantined) -> pb.QuarantinedEvent:
    event = rejected.event
    return pb.QuarantinedEvent(
        source=rejected.source,
        event=event_pb.Event(
            id=event.id,
            subscriber_id=event.subscriber_id,
            type=event.type,
            occurred_at=timestamp(event.occurred_at_us),
            cell_id=event.cell_id,
            imei=event.imei,
            attributes=event.attributes,
        ),
        attributes_encoding=encoding_number(event.encoding),
        reason=rejection_number(rejected.reason),
        message=rejected.message,
        received_at=timestamp(rejected.received_us),
    )
