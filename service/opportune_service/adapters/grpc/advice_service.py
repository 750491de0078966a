"""What touch points with a person at them ask and report."""

from __future__ import annotations

import logging

from opportune.v1 import advice_service_pb2 as pb

from opportune_service.adapters.grpc.handlers import Context
from opportune_service.adapters.grpc.use_cases import UseCases
from opportune_service.adapters.grpc.words import (
    ENCODINGS,
    OUTCOMES,
    check_length,
    check_subscriber,
    chosen,
    past_time,
    timestamp,
)
from opportune_service.app.advise import ADVICE_SOURCE, Advice, Visit, advise
from opportune_service.core.admit import mask

log = logging.getLogger(__name__)


class AdviceService:
    """See the contract."""

    def __init__(self, app: UseCases) -> None:
        self._app = app

    async def Advise(self, request: pb.AdviseRequest, _: Context) -> pb.AdviseResponse:  # noqa: N802
        check_length("request_id", request.request_id, 64, least=1)
        check_subscriber("subscriber_id", request.subscriber_id)
        check_length("agent", request.agent, 64)
        visit = Visit(
            subscriber_id=request.subscriber_id,
            touch_point=request.touch_point,
            request_id=request.request_id,
            event_type=request.event_type or f"{request.touch_point}_visit",
            attributes=request.attributes,
            encoding=chosen(ENCODINGS, request.attributes_encoding, "attributes_encoding"),
            cell_id=request.cell_id,
            imei=request.imei,
        )
        app = self._app
        advised = await advise(app.live, app.ingest, app.ledger, app.thread, app.clock, visit)
        if request.agent:
            # The audit of who was shown what: the ids lead to the decisions.
            ids = ", ".join(advice.decision_id for advice in advised.advices) or "none"
            log.info("advice at %s for agent %s: %s", visit.touch_point, mask(request.agent), ids)
        return pb.AdviseResponse(
            advices=[_advice(each) for each in advised.advices],
            source=ADVICE_SOURCE,
            revision=advised.revision,
        )

    async def ReportOutcome(  # noqa: N802
        self, request: pb.ReportOutcomeRequest, _: Context
    ) -> pb.ReportOutcomeResponse:
        check_length("decision_id", request.decision_id, 64, least=1)
        check_length("agent", request.agent, 64)
        check_length("request_id", request.request_id, 64)
        kind = chosen(OUTCOMES, request.kind, "kind")
        check_length("detail", request.detail, 500)
        now_us = self._app.clock.now_us()
        at_us = now_us
        if request.HasField("occurred_at"):
            at_us = past_time("occurred_at", request.occurred_at, now_us)
        new = await self._app.deliveries.report_outcome(request.decision_id, kind, at_us, request.detail)
        if request.agent:
            log.info("outcome %s of %s by agent %s", kind, mask(request.decision_id), mask(request.agent))
        return pb.ReportOutcomeResponse(already_known=not new)


def _advice(advice: Advice) -> pb.Advice:
    return pb.Advice(
        decision_id=advice.decision_id,
        campaign=advice.campaign,
        campaign_label=advice.label,
        product=advice.product,
        product_label=advice.product_label,
        content=advice.say,
        reasons=advice.reasons,
        expires_at=timestamp(advice.expires_at_us),
    )
