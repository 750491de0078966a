"""What operators do: check, store and activate rulebases, and look at decisions."""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Callable, Collection, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, cast

import grpc
from opportune.v1 import delivery_service_pb2 as delivery_pb
from opportune.v1 import insight_service_pb2 as insight_pb
from opportune.v1 import rulebase_service_pb2 as pb
from opportune.v1 import types_pb2
from opportune.v1.delivery_service_pb2_grpc import DeliveryServiceStub
from opportune.v1.insight_service_pb2_grpc import InsightServiceStub
from opportune.v1.rulebase_service_pb2_grpc import RulebaseServiceStub

from opportune_client.errors import translated
from opportune_client.times import to_timestamp
from opportune_client.words import Reason, RejectionReason

MAX_ARCHIVE_BYTES: Final = 16 << 20
"""What the service takes."""

_SUFFIXES: Final = frozenset({".yaml", ".yml", ".csv", ".xlsx"})
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say: equal files, equal bytes

_PERIODS: Final = {
    "whole": insight_pb.REPORT_PERIOD_UNSPECIFIED,
    "hour": insight_pb.REPORT_PERIOD_HOUR,
    "day": insight_pb.REPORT_PERIOD_DAY,
    "week": insight_pb.REPORT_PERIOD_WEEK,
}

Source = Path | str | bytes
"""A rulebase's directory, a zip file of it, or the bytes of one."""


class OperatorClient:
    """Rulebases, decisions and rejected events over one channel. Thread-safe. Errors: `OpportuneError`.

    A rulebase is given as its directory, a zip file, or a zip's bytes. Answers are the messages of
    the contract (`opportune.v1`), in which each field is documented.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._rulebases = RulebaseServiceStub(channel)
        self._insight = InsightServiceStub(channel)
        self._deliveries = DeliveryServiceStub(channel)

    def check(self, rulebase: Source, *, timeout: float | None = None) -> pb.CheckRulebaseResponse:
        """Every problem of a rulebase; finding some is no error. Stores nothing."""
        request = pb.CheckRulebaseRequest(archive=_archive(rulebase))
        with translated():
            return self._rulebases.CheckRulebase(request, timeout=timeout)

    def upload(
        self, rulebase: Source, *, comment: str = "", request_id: str = "", timeout: float | None = None
    ) -> pb.UploadRulebaseResponse:
        """Stores a revision; nothing decides by it yet. Uploading it again changes nothing.

        RequestError: it has errors; `violations` holds the first of them, `check` lists all.
        """
        request = pb.UploadRulebaseRequest(
            archive=_archive(rulebase), comment=comment, request_id=request_id
        )
        with translated():
            return self._rulebases.UploadRulebase(request, timeout=timeout)

    def activate(
        self,
        revision: str,
        *,
        expected_current: str = "",
        backfill: bool = False,
        comment: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.ActivateRulebaseResponse:
        """Lets a stored revision decide for everybody; answers when it is in force.

        `expected_current` is the revision that the caller believes to be in force, empty if none is:
        ConflictError if it is another. `backfill`: whether metrics that are new with it are filled from
        the service's log of events; it answers without waiting for that. On any error what was in force
        still is, except DeadlineError and UnavailableError, after which `get` tells. Not repeated by
        itself; with a `request_id` it may be repeated safely.
        """
        request = pb.ActivateRulebaseRequest(
            revision=revision,
            expected_current_revision=expected_current,
            mode=types_pb2.ACTIVATION_MODE_FULL,
            backfill=backfill,
            comment=comment,
            request_id=request_id,
        )
        with translated():
            return self._rulebases.ActivateRulebase(request, timeout=timeout)

    def get(
        self, revision: str = "", *, include_archive: bool = False, timeout: float | None = None
    ) -> pb.GetRulebaseResponse:
        """One revision, by default the one in force, and what is in force. NotFoundError: no such one."""
        request = pb.GetRulebaseRequest(revision=revision, include_archive=include_archive)
        with translated():
            return self._rulebases.GetRulebase(request, timeout=timeout)

    def list_rulebases(self, *, page_size: int = 50, timeout: float | None = None) -> Iterator[pb.Rulebase]:
        """All revisions, newest first, fetched page by page. `timeout` is that of one page."""
        request = pb.ListRulebasesRequest(page_size=page_size)
        for page in _pages(self._rulebases.ListRulebases, request, timeout):
            yield from page.rulebases

    def explain(self, decision_id: str, *, timeout: float | None = None) -> types_pb2.Verdict:
        """Everything that the decision's event led to, with traces. NotFoundError: no such decision."""
        request = insight_pb.ExplainDecisionRequest(decision_id=decision_id)
        with translated():
            return self._insight.ExplainDecision(request, timeout=timeout).verdict

    def explain_event(
        self, subscriber_id: str, source: str, event_id: str, *, timeout: float | None = None
    ) -> types_pb2.Verdict:
        """As `explain`, by the event. NotFoundError: the event had no candidates."""
        key = insight_pb.EventKey(subscriber_id=subscriber_id, source=source, event_id=event_id)
        with translated():
            request = insight_pb.ExplainDecisionRequest(event=key)
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
        timeout: float | None = None,
    ) -> Iterator[types_pb2.Decision]:
        """Decisions and suppressed candidates, newest first, fetched page by page as they are read.

        All conditions that are given must hold; `since` is inclusive, `until` exclusive, both by
        decision time. `timeout` is that of one page.
        """
        request = _decisions_request(subscriber_id, campaign, reasons, revision, include_trace, page_size)
        if since is not None:
            request.since.CopyFrom(to_timestamp(since))
        if until is not None:
            request.until.CopyFrom(to_timestamp(until))
        for page in _pages(self._insight.ListDecisions, request, timeout):
            yield from page.decisions

    def pause(self, campaign: str, reason: str, *, timeout: float | None = None) -> pb.CampaignStatus:
        """Pauses a campaign: nothing is decided for it or handed out any more. One that is paused stays as
        it was. `reason` is for the audit. NotFoundError: the rulebase in force has no such campaign."""
        request = pb.PauseCampaignRequest(campaign=campaign, reason=reason)
        with translated():
            return self._rulebases.PauseCampaign(request, timeout=timeout).campaign

    def resume(self, campaign: str, reason: str = "", *, timeout: float | None = None) -> pb.CampaignStatus:
        """Lets a paused campaign go on. NotFoundError as of `pause`."""
        request = pb.ResumeCampaignRequest(campaign=campaign, reason=reason)
        with translated():
            return self._rulebases.ResumeCampaign(request, timeout=timeout).campaign

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
        timeout: float | None = None,
    ) -> insight_pb.GetCampaignReportResponse:
        """What campaigns (none: all) did in [since, until), now if absent, and with what effect.

        `period`: one report over all (`whole`), or one for each `hour`, `day` or `week`. RequestError: the
        revision in force has no such campaign, the time is empty, or it makes more than 1,000 periods.
        """
        request = insight_pb.GetCampaignReportRequest(
            campaigns=campaigns,
            since=to_timestamp(since),
            until=to_timestamp(until) if until is not None else None,
            period=_PERIODS[period],
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
        for page in _pages(self._insight.ListQuarantine, request, timeout):
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
        for page in _pages(self._deliveries.ListDeadLetters, request, timeout):
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
        every_seconds: float = 0.5,
        timeout: float | None = None,
        pause: Callable[[float], object] = time.sleep,
    ) -> Iterator[types_pb2.Decision]:
        """Decisions from now on as they are recorded, in that order, none left out; does not end.

        Asks again every `every_seconds` while nothing is new, through `pause`. UnavailableError ends
        it; call it again, and `list_decisions` with `since` for what came in between.
        """
        request = _decisions_request(subscriber_id, campaign, reasons, "", include_trace, 1)
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


def _pages(call: Callable[..., Any], request: Any, timeout: float | None) -> Iterator[Any]:
    """The pages of a list, each fetched when it is asked for."""
    while True:
        with translated():
            page = call(request, timeout=timeout)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def pack_rulebase(directory: Path | str) -> bytes:
    """A zip of a rulebase's directory: its YAML and CSV files, hidden ones left out, sorted, no times.

    Equal files give equal bytes. ValueError: there is no rulebase.yaml, a link leads out of the
    directory, or the archive would be larger than the service takes. OSError: a file cannot be read.
    """
    top = Path(directory)
    if not (top / "rulebase.yaml").is_file():
        raise ValueError(f"{top} holds no rulebase.yaml; name the directory that does")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in sorted(_files(top)):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system = 3  # Unix, wherever it was packed
            info.external_attr = 0o100644 << 16  # a plain file that everybody may read
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, path.read_bytes())
    if buffer.tell() > MAX_ARCHIVE_BYTES:
        raise ValueError(
            f"{top} packs to more than {MAX_ARCHIVE_BYTES} bytes; take out what is no part of it"
        )
    return buffer.getvalue()


def _files(top: Path) -> Iterator[tuple[str, Path]]:
    root = top.resolve()
    for path in top.rglob("*"):
        relative = path.relative_to(top)
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or path.suffix not in _SUFFIXES or not path.is_file():
            continue
        if not path.resolve().is_relative_to(root):
            raise ValueError(f"{relative} is a link that leads out of the rulebase; copy the file into it")
        yield relative.as_posix(), path


def _archive(rulebase: Source) -> pb.RulebaseArchive:
    if isinstance(rulebase, bytes):
        data = rulebase
    else:
        path = Path(rulebase)
        data = pack_rulebase(path) if path.is_dir() else path.read_bytes()
    return pb.RulebaseArchive(format=pb.ARCHIVE_FORMAT_ZIP, data=data)


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
