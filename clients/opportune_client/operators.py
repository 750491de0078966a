"""What operators do: rulebases and their life, decisions, rejected events, dead letters."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from datetime import datetime, timedelta
from typing import Final, Literal, cast

import grpc
from opportune.v1 import delivery_service_pb2 as delivery_pb
from opportune.v1 import insight_service_pb2 as insight_pb
from opportune.v1 import types_pb2
from opportune.v1.delivery_service_pb2_grpc import DeliveryServiceStub
from opportune.v1.insight_service_pb2_grpc import InsightServiceStub

from opportune_client.errors import translated
from opportune_client.rulebases import RulebaseCalls, pages
from opportune_client.times import to_timestamp
from opportune_client.words import Reason, RejectionReason

_PERIODS: Final = {
    "whole": insight_pb.REPORT_PERIOD_UNSPECIFIED,
    "hour": insight_pb.REPORT_PERIOD_HOUR,
    "day": insight_pb.REPORT_PERIOD_DAY,
    "week": insight_pb.REPORT_PERIOD_WEEK,
}


class OperatorClient(RulebaseCalls):
    """Rulebases, decisions, rejected events and dead letters over one channel. Thread-safe. Errors:
    `OpportuneError`.

    A rulebase is given as its directory, a zip file, or a zip's bytes. Answers are the messages of
    the contract (`opportune.v1`), in which each field is documented.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        super().__init__(channel)
        self._insight = InsightServiceStub(channel)
        self._deliveries = DeliveryServiceStub(channel)

    def explain(
        self, decision_id: str, *, shadow: bool = False, timeout: float | None = None
    ) -> types_pb2.Verdict:
        """Everything that the decision's event led to, with traces. `shadow`: in the shadow, whose decision
        it is. NotFoundError: no such decision."""
        request = insight_pb.ExplainDecisionRequest(decision_id=decision_id, shadow=shadow)
        with translated():
            return self._insight.ExplainDecision(request, timeout=timeout).verdict

    def explain_event(
        self,
        subscriber_id: str,
        source: str,
        event_id: str,
        *,
        shadow: bool = False,
        timeout: float | None = None,
    ) -> types_pb2.Verdict:
        """As `explain`, by the event. NotFoundError: the event had no candidates."""
        key = insight_pb.EventKey(subscriber_id=subscriber_id, source=source, event_id=event_id)
        with translated():
            request = insight_pb.ExplainDecisionRequest(event=key, shadow=shadow)
            return self._insight.ExplainDecision(request, timeout=timeout).verdict

    def list_decisions(
        self,
        *,
        subscriber_id: str = "",
        campaign: str = "",
        reasons: Collection[Reason] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        revision: str = "",
        include_trace: bool = False,
        page_size: int = 50,
        shadow: bool = False,
        timeout: float | None = None,
    ) -> Iterator[types_pb2.Decision]:
        """Decisions and suppressed candidates, newest first, fetched page by page as they are read.

        All conditions that are given must hold; `since` is inclusive, `until` exclusive, both by
        decision time. `shadow`: those of the shadow. `timeout` is that of one page.
        """
        request = _decisions_request(subscriber_id, campaign, reasons, revision, include_trace, page_size)
        request.shadow = shadow
        if since is not None:
            request.since.CopyFrom(to_timestamp(since))
        if until is not None:
            request.until.CopyFrom(to_timestamp(until))
        for page in pages(self._insight.ListDecisions, request, timeout):
            yield from page.decisions

    def why_not(
        self, subscriber_id: str, campaign: str, *, timeout: float | None = None
    ) -> insight_pb.WhyNotResponse:
        """Why a campaign would not fire now, on a bare event of each type that triggers it. Writes nothing.
        NotFoundError: the revision in force has no such campaign."""
        request = insight_pb.WhyNotRequest(subscriber_id=subscriber_id, campaign=campaign)
        with translated():
            return self._insight.WhyNot(request, timeout=timeout)

    def report(
        self,
        campaigns: Collection[str] = (),
        *,
        since: datetime,
        until: datetime | None = None,
        period: Literal["whole", "hour", "day", "week"] = "whole",
        shadow: bool = False,
        timeout: float | None = None,
    ) -> insight_pb.GetCampaignReportResponse:
        """What campaigns (none: all) did in [since, until), now if absent, and with what effect.

        `period`: one report over all (`whole`), or one for each `hour`, `day` or `week`. `shadow`: what
        campaigns of the shadow would have done. RequestError: the
        revision in force has no such campaign, the time is empty, or it makes more than 1,000 periods.
        """
        request = insight_pb.GetCampaignReportRequest(
            campaigns=campaigns,
            since=to_timestamp(since),
            until=to_timestamp(until) if until is not None else None,
            period=_PERIODS[period],
            shadow=shadow,
        )
        with translated():
            return self._insight.GetCampaignReport(request, timeout=timeout)

    def list_quarantine(
        self,
        *,
        source: str = "",
        reasons: Collection[RejectionReason] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        page_size: int = 50,
        timeout: float | None = None,
    ) -> Iterator[insight_pb.QuarantinedEvent]:
        """Rejected events that are kept, newest first, fetched page by page as they are read.

        All conditions that are given must hold; `since` is inclusive, `until` exclusive, both by time of
        receipt. `timeout` is that of one page. The events hold people's numbers as they were sent.
        """
        request = insight_pb.ListQuarantineRequest(
            source=source,
            reasons=[cast("types_pb2.RejectionReason.ValueType", int(reason)) for reason in reasons],
            page_size=page_size,
        )
        if since is not None:
            request.since.CopyFrom(to_timestamp(since))
        if until is not None:
            request.until.CopyFrom(to_timestamp(until))
        for page in pages(self._insight.ListQuarantine, request, timeout):
            yield from page.events

    def list_dead_letters(
        self,
        *,
        channel: str = "",
        campaign: str = "",
        page_size: int = 50,
        timeout: float | None = None,
    ) -> Iterator[delivery_pb.DeadLetter]:
        """Deliveries that ran out of attempts, the newest decision first, fetched page by page as they are
        read. `timeout` is that of one page. They hold people's numbers."""
        request = delivery_pb.ListDeadLettersRequest(
            channel=channel, campaign=campaign, page_size=page_size
        )
        for page in pages(self._deliveries.ListDeadLetters, request, timeout):
            yield from page.dead_letters

    def redrive(
        self,
        delivery_ids: Collection[str] = (),
        *,
        channel: str = "",
        campaign: str = "",
        expires_in: timedelta | None = None,
        comment: str = "",
        timeout: float | None = None,
    ) -> delivery_pb.RedriveDeadLettersResponse:
        """Has dead letters tried again: these, or all of a channel or campaign.

        `expires_in`: how long the offers are to last from now; None: they keep their time, and those whose
        time is over are left alone. So are those that caps, quota or capacity do not allow now. A
        repetition finds nothing left to redrive. RequestError: neither ids nor channel nor campaign.
        """
        request = delivery_pb.RedriveDeadLettersRequest(
            delivery_ids=delivery_ids, channel=channel, campaign=campaign, comment=comment
        )
        if expires_in is not None:
            request.expires_in.FromTimedelta(expires_in)
        with translated():
            return self._deliveries.RedriveDeadLetters(request, timeout=timeout)

    def follow_decisions(
        self,
        *,
        subscriber_id: str = "",
        campaign: str = "",
        reasons: Collection[Reason] = (),
        include_trace: bool = False,
        shadow: bool = False,
        every_seconds: float = 0.5,
        timeout: float | None = None,
        pause: Callable[[float], object] = time.sleep,
    ) -> Iterator[types_pb2.Decision]:
        """Decisions from now on as they are recorded, in that order, none left out; does not end.

        Asks again every `every_seconds` while nothing is new, through `pause`. `shadow`: those of the
        shadow; another one that begins is not followed. UnavailableError ends it; call it again, and
        `list_decisions` with `since` for what came in between.
        """
        request = _decisions_request(subscriber_id, campaign, reasons, "", include_trace, 1)
        request.shadow = shadow
        with translated():
            request.after = self._insight.ListDecisions(request, timeout=timeout).cursor
        request.page_size = 1_000
        while True:
            with translated():
                page = self._insight.ListDecisions(request, timeout=timeout)
            yield from page.decisions
            request.after = page.cursor
            if not page.decisions:
                pause(every_seconds)


def _decisions_request(
    subscriber_id: str,
    campaign: str,
    reasons: Collection[Reason],
    revision: str,
    include_trace: bool,
    page_size: int,
) -> insight_pb.ListDecisionsRequest:
    return insight_pb.ListDecisionsRequest(
        subscriber_id=subscriber_id,
        campaign=campaign,
        reasons=[cast("types_pb2.Reason.ValueType", int(reason)) for reason in reasons],
        revision=revision,
        include_trace=include_trace,
        page_size=page_size,
    )
