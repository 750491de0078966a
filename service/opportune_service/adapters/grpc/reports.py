"""Reports as messages of the contract."""

from __future__ import annotations

from opportune.v1 import insight_service_pb2 as pb
from opportune.v1 import types_pb2 as types

from opportune_service.adapters.grpc.words import reason_number, timestamp
from opportune_service.app.report import CampaignEffect, ChannelUse, Report
from opportune_service.core.estimates import METHOD, Estimate


def report_message(report: Report) -> pb.GetCampaignReportResponse:
    """The whole report."""
    return pb.GetCampaignReportResponse(
        reports=[_campaign(each) for each in report.campaigns],
        channel_loads=[_channel(each) for each in report.channels],
        contact_frequencies=[
            pb.ContactFrequency(contact_count=contacts, subscriber_count=subscribers)
            for contacts, subscribers in sorted(report.frequencies.items())
        ],
        interval_method=METHOD,
    )


def _campaign(effect: CampaignEffect) -> pb.CampaignReport:
    figures = effect.figures
    return pb.CampaignReport(
        campaign=figures.campaign,
        campaign_label=effect.label,
        period_start=timestamp(figures.start_us),
        period_end=timestamp(figures.end_us),
        event_count=figures.events,
        matched_count=figures.matched,
        losses=[
            types.ReasonCount(campaign=figures.campaign, reason=reason_number(reason), count=count)
            for reason, count in figures.lost.items()
        ],
        decided_count=figures.decided,
        sent_count=figures.sent,
        delivered_count=figures.delivered,
        answered_count=figures.answered,
        converted_count=figures.converted,
        control_count=figures.control,
        control_converted_count=figures.control_converted,
        treated_count=figures.treated,
        treated_converted_count=figures.treated_converted,
        success_rate=_estimate(effect.success),
        inquiry_rate=_estimate(effect.inquiry),
        complaint_rate=_estimate(effect.complaint),
        uplift=_estimate(effect.uplift),
        uplift_over_mass=_estimate(effect.over_mass),
        cost=figures.cost,
    )


def _estimate(estimate: Estimate | None) -> pb.Estimate | None:
    if estimate is None:
        return None
    return pb.Estimate(value=estimate.value, low=estimate.low, high=estimate.high)


def _channel(use: ChannelUse) -> types.ChannelLoad:
    return types.ChannelLoad(
        channel=use.figures.channel,
        period_start=timestamp(use.figures.start_us),
        decided_count=use.figures.decided,
        capacity=use.capacity,
        peak_per_second=use.figures.peak_per_second,
    )
