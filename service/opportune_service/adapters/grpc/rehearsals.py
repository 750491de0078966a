"""Rehearsals, as the contract has them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from opportune.v1 import rulebase_service_pb2 as pb
from opportune.v1 import types_pb2 as types
from opportune_rulebase import Rulebase

from opportune_service.adapters.grpc.decisions import decision_message
from opportune_service.adapters.grpc.words import (
    check_length,
    check_subscriber,
    microseconds,
    optional_timestamp,
    reason_number,
    timestamp,
)
from opportune_service.app.callers import Caller
from opportune_service.app.errors import InvalidRequestError
from opportune_service.app.rehearsal import ChannelDay, Difference, Progress, Report, Sample
from opportune_service.app.rehearsals import Rehearsal, Rehearsals
from opportune_service.core.verdict import Verdict

Note = Callable[[str, Caller, str], Awaitable[None]]
"""(revision, who rehearsed it, what)"""

_DEFAULT_SAMPLES = 10
_MAX_TEST_SUBSCRIBERS = 20
_MAX_TEST_SENDS = 10


def asked_for(request: pb.RehearseRulebaseRequest) -> Rehearsal:
    """Raises `InvalidRequestError` for what can be told without looking anything up."""
    check_length("revision", request.revision, 64, least=1)
    check_length("baseline_revision", request.baseline_revision, 64)
    if not request.HasField("since"):
        raise InvalidRequestError("since", "since is required: from when on events are decided")
    if len(request.test_subscriber_ids) > _MAX_TEST_SUBSCRIBERS:
        raise InvalidRequestError(
            "test_subscriber_ids", f"test_subscriber_ids has at most {_MAX_TEST_SUBSCRIBERS} numbers"
        )
    for number, subscriber_id in enumerate(request.test_subscriber_ids):
        check_subscriber(f"test_subscriber_ids[{number}]", subscriber_id)
    if not 0 <= request.test_sends_per_campaign <= _MAX_TEST_SENDS:
        raise InvalidRequestError(
            "test_sends_per_campaign", f"test_sends_per_campaign must be 1 to {_MAX_TEST_SENDS}"
        )
    return Rehearsal(
        revision=request.revision,
        since_us=_instant("since", request.since),
        baseline=request.baseline_revision,
        until_us=_instant("until", request.until) if request.HasField("until") else 0,
        sample_size=request.sample_size if request.HasField("sample_size") else _DEFAULT_SAMPLES,
        tested=tuple(request.test_subscriber_ids),
        tests_per_campaign=request.test_sends_per_campaign or 1,
        folded_since_us=(
            _instant("folded_since", request.folded_since) if request.HasField("folded_since") else 0
        ),
    )


def _instant(field: str, given: Timestamp) -> int:
    at_us = microseconds(given)
    if at_us <= 0:
        raise InvalidRequestError(field, f"{field} must be an instant after 1970")
    return at_us


async def answers(
    rehearsals: Rehearsals, asked: Rehearsal, caller: Caller, note: Note
) -> AsyncGenerator[pb.RehearseRulebaseResponse, None]:
    """The messages of a call. Closing it ends the rehearsal. `note`: records that there was one."""
    async with aclosing(rehearsals.rehearse(asked, caller.name)) as outputs:
        async for output in outputs:
            match output:
                case Progress():
                    yield pb.RehearseRulebaseResponse(progress=_progress(output))
                case Report():
                    report = report_message(output, rehearsals.rulebases)
                    await note(asked.revision, caller, _in_short(output))
                    yield pb.RehearseRulebaseResponse(report=report)


def _in_short(report: Report) -> str:
    since = datetime.fromtimestamp(report.since_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M")
    until = datetime.fromtimestamp(report.until_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M")
    tests = f", {report.tests_sent} test sends" if report.tests_sent else ""
    return f"{report.events:,} events from {since} to {until} UTC, against {report.baseline[:12]}{tests}"


def _progress(progress: Progress) -> pb.RehearsalProgress:
    return pb.RehearsalProgress(
        event_count=progress.events,
        total_event_count=progress.total,
        virtual_now=optional_timestamp(progress.now_us),
        elapsed=_duration(progress.elapsed_us),
    )


def report_message(report: Report, rulebases: Mapping[str, Rulebase]) -> pb.RehearsalReport:
    """The report. `rulebases`: by revision, for labels."""
    return pb.RehearsalReport(
        revision=report.revision,
        baseline_revision=report.baseline,
        event_count=report.events,
        volumes=[
            pb.RehearsalVolume(
                campaign=each.campaign,
                hour=timestamp(each.start_us),
                decided_count=each.decided,
                control_count=each.control,
            )
            for each in report.volumes
        ],
        losses=[
            types.ReasonCount(campaign=each.campaign, reason=reason_number(each.reason), count=each.count)
            for each in report.losses
        ],
        channel_loads=[_channel(each) for each in report.channels],
        cost=report.cost,
        differences=[_difference(each, rulebases) for each in report.differences],
        elapsed=_duration(report.elapsed_us),
        test_send_count=report.tests_sent,
        decided_count=report.contacts,
        control_count=report.would_be,
        baseline_decided_count=report.baseline_contacts,
        baseline_control_count=report.baseline_would_be,
        baseline_cost=report.baseline_cost,
        since=timestamp(report.since_us),
        until=timestamp(report.until_us),
        folded_since=timestamp(report.covered_us),
        folded_event_count=report.folded,
        warnings=report.warnings,
        volume_period=_duration(report.volume_us),
        time_zone=report.time_zone,
    )


def _channel(day: ChannelDay) -> types.ChannelLoad:
    return types.ChannelLoad(
        channel=day.channel,
        period_start=timestamp(day.start_us),
        decided_count=day.decided,
        capacity=day.capacity,
        peak_per_second=day.peak_per_second,
        busiest_hour=timestamp(day.busiest_hour_us),
        busiest_hour_count=day.busiest_hour,
        per_second=day.pace,
    )


def _difference(difference: Difference, rulebases: Mapping[str, Rulebase]) -> pb.RehearsalDifference:
    return pb.RehearsalDifference(
        campaign=difference.campaign,
        won_count=difference.won,
        lost_count=difference.lost,
        changed_count=difference.changed,
        samples=[_sample(each, rulebases) for each in difference.samples],
    )


def _sample(sample: Sample, rulebases: Mapping[str, Rulebase]) -> pb.RehearsalSample:
    return pb.RehearsalSample(
        before=_decision(sample.before, rulebases), after=_decision(sample.after, rulebases)
    )


def _decision(verdict: Verdict | None, rulebases: Mapping[str, Rulebase]) -> types.Decision | None:
    if verdict is None:
        return None
    rulebase = rulebases.get(verdict.revision)
    return decision_message(verdict, verdict.decisions[0], rulebase, None, (), trace=False)


def _duration(span_us: int) -> Duration:
    seconds, micros = divmod(span_us, 1_000_000)
    return Duration(seconds=seconds, nanos=micros * 1_000)
