"""What operators do with rulebases."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from opportune.v1 import rulebase_service_pb2 as pb
from opportune.v1 import types_pb2 as types
from opportune_rulebase import Problem, Rulebase, RulebaseError, Severity, from_archive
from opportune_rulebase.model import Campaign

from opportune_service.adapters.grpc.errors import UnsupportedError
from opportune_service.adapters.grpc.handlers import Context
from opportune_service.adapters.grpc.revisions import Revisions
from opportune_service.adapters.grpc.roles import caller_name
from opportune_service.adapters.grpc.use_cases import UseCases
from opportune_service.adapters.grpc.words import (
    check_length,
    mode_number,
    optional_timestamp,
    page_size,
    timestamp,
)
from opportune_service.app.activation import Attempt
from opportune_service.app.errors import (
    ConflictError,
    InvalidRequestError,
    NotReadyError,
    RulebaseRefusedError,
    UnknownRevisionError,
)
from opportune_service.app.records import Pause, RulebaseRow

MAX_ARCHIVE_BYTES = 16 << 20
_MAX_COMMENT = 2_000
_MAX_REASON = 500
_MODES = {types.ACTIVATION_MODE_UNSPECIFIED, types.ACTIVATION_MODE_FULL}
_SEVERITIES = {
    Severity.ERROR: pb.PROBLEM_SEVERITY_ERROR,
    Severity.WARNING: pb.PROBLEM_SEVERITY_WARNING,
}


class RulebaseService:
    """See the contract."""

    def __init__(self, app: UseCases, revisions: Revisions) -> None:
        self._app = app
        self._rulebases = app.rulebases
        self._revisions = revisions

    async def CheckRulebase(  # noqa: N802
        self, request: pb.CheckRulebaseRequest, _: Context
    ) -> pb.CheckRulebaseResponse:
        try:
            report = await self._rulebases.check(await _unpacked(request.archive))
        except RulebaseRefusedError as error:
            return pb.CheckRulebaseResponse(problems=[_problem(each) for each in error.problems])
        return pb.CheckRulebaseResponse(
            valid=report.rulebase is not None,
            problems=[_problem(each) for each in report.problems],
            revision=report.rulebase.revision if report.rulebase else "",
        )

    async def UploadRulebase(  # noqa: N802
        self, request: pb.UploadRulebaseRequest, context: Context
    ) -> pb.UploadRulebaseResponse:
        _check_words(request.comment, request.request_id)
        if request.HasField("work_order"):
            raise UnsupportedError("UploadRulebaseRequest.work_order")
        files = await _unpacked(request.archive)
        before = {row.revision for row in await self._rulebases.list()}
        rulebase, _ = await self._rulebases.upload(files, caller_name(context), request.comment)
        row, _archive, live = await self._rulebases.get(rulebase.revision)
        return pb.UploadRulebaseResponse(
            rulebase=_described(row, live, rulebase, await self._app.pauses.paused()),
            already_known=rulebase.revision in before,
        )

    async def ActivateRulebase(  # noqa: N802
        self, request: pb.ActivateRulebaseRequest, context: Context
    ) -> pb.ActivateRulebaseResponse:
        _check_words(request.comment, request.request_id)
        _check_mode(request)
        expected = request.expected_current_revision
        try:
            previous = await self._app.activations.activate(
                request.revision,
                expected,
                caller_name(context),
                request.comment,
                backfill=request.backfill,
            )
        except RulebaseRefusedError as error:
            raise NotReadyError(
                "this version no longer takes the revision; CheckRulebase says why, the one in force stays"
            ) from error
        except ConflictError:
            # A repetition of what worked: it is in force, as the caller wants.
            if not request.request_id or request.revision != self._app.live.id:
                raise
            previous = expected
        activation = await self._activation(request.revision)
        activation.actor = caller_name(context)
        activation.comment = request.comment
        return pb.ActivateRulebaseResponse(
            activation=activation, previous_revision=previous, activations=[activation]
        )

    async def GetRulebase(  # noqa: N802
        self, request: pb.GetRulebaseRequest, _: Context
    ) -> pb.GetRulebaseResponse:
        row, archive, live = await self._rulebases.get(request.revision)
        answer = pb.GetRulebaseResponse(
            rulebase=_described(
                row,
                live,
                await self._revisions.rulebase(row.revision),
                await self._app.pauses.paused(),
            ),
            history=_history(row),
        )
        if request.include_archive:
            answer.archive.format = pb.ARCHIVE_FORMAT_ZIP
            answer.archive.data = archive
        if self._app.live.id:
            answer.activations.append(await self._activation(self._app.live.id))
        if self._app.activations.last_attempt is not None:
            answer.last_attempt.CopyFrom(_attempt(self._app.activations.last_attempt))
        return answer

    async def ListRulebases(  # noqa: N802
        self, request: pb.ListRulebasesRequest, _: Context
    ) -> pb.ListRulebasesResponse:
        if request.state not in pb.RulebaseState.values():
            raise InvalidRequestError("state", "state must be one that the contract names")
        size = page_size(request.page_size)
        rows = list(await self._rulebases.list())
        if request.page_token:
            place = next((i for i, row in enumerate(rows) if row.revision == request.page_token), None)
            if place is None:
                raise InvalidRequestError("page_token", "page_token must be one that an answer gave")
            rows = rows[place + 1 :]
        live = self._app.live.id
        if request.state:
            rows = [row for row in rows if _state(row, row.revision == live) == request.state]
        page = rows[:size]
        return pb.ListRulebasesResponse(
            rulebases=[_described(row, row.revision == live, None, {}) for row in page],
            next_page_token=page[-1].revision if len(rows) > size else "",
        )

    async def PauseCampaign(  # noqa: N802
        self, request: pb.PauseCampaignRequest, context: Context
    ) -> pb.PauseCampaignResponse:
        _check_campaign(request.campaign, request.request_id)
        check_length("reason", request.reason, _MAX_REASON, least=1)
        pause = await self._app.pauses.pause(request.campaign, caller_name(context), request.reason)
        return pb.PauseCampaignResponse(campaign=self._status(request.campaign, pause))

    async def ResumeCampaign(  # noqa: N802
        self, request: pb.ResumeCampaignRequest, context: Context
    ) -> pb.ResumeCampaignResponse:
        _check_campaign(request.campaign, request.request_id)
        check_length("reason", request.reason, _MAX_REASON)
        await self._app.pauses.resume(request.campaign, caller_name(context), request.reason)
        return pb.ResumeCampaignResponse(campaign=self._status(request.campaign, None))

    def _status(self, name: str, pause: Pause | None) -> pb.CampaignStatus:
        campaign = self._app.live.current.rulebase.campaigns.get(name) if self._app.live.id else None
        return _campaign(campaign, pause) if campaign else pb.CampaignStatus(campaign=name)

    async def _activation(self, revision: str) -> pb.Activation:
        row, _, _ = await self._rulebases.get(revision)
        return pb.Activation(
            revision=revision,
            mode=types.ACTIVATION_MODE_FULL,
            activated_at=optional_timestamp(row.activated_at_us),
        )


def _check_words(comment: str, request_id: str) -> None:
    check_length("comment", comment, _MAX_COMMENT)
    check_length("request_id", request_id, 64)


def _check_campaign(campaign: str, request_id: str) -> None:
    check_length("campaign", campaign, 200, least=1)
    check_length("request_id", request_id, 64)


def _check_mode(request: pb.ActivateRulebaseRequest) -> None:
    if request.mode not in types.ActivationMode.values():
        raise InvalidRequestError("mode", "mode must be one that the contract names")
    if request.mode not in _MODES:
        raise UnsupportedError(types.ActivationMode.Name(request.mode))
    if request.canary_share:
        raise InvalidRequestError("canary_share", "canary_share is for mode CANARY only")
    if not request.revision:
        raise UnknownRevisionError("revision is empty; name one that was uploaded")


async def _unpacked(archive: pb.RulebaseArchive) -> dict[str, bytes]:
    """The files of an archive. Raises `RulebaseRefusedError` for one that is refused."""
    if archive.format not in pb.ArchiveFormat.values():
        raise InvalidRequestError("archive.format", "archive.format must be zip, or absent")
    if archive.signature:
        raise UnsupportedError("RulebaseArchive.signature")
    if not archive.data:
        raise InvalidRequestError("archive.data", "archive.data must hold the rulebase as a zip")
    if len(archive.data) > MAX_ARCHIVE_BYTES:
        raise InvalidRequestError("archive.data", f"archive.data has at most {MAX_ARCHIVE_BYTES} bytes")
    try:
        return await asyncio.to_thread(from_archive, archive.data)
    except RulebaseError as error:
        raise RulebaseRefusedError(error.problems) from error


def _state(row: RulebaseRow, live: bool) -> pb.RulebaseState.ValueType:
    if live:
        return pb.RULEBASE_STATE_ACTIVE
    return pb.RULEBASE_STATE_SUPERSEDED if row.activated_at_us else pb.RULEBASE_STATE_CHECKED


def _described(
    row: RulebaseRow, live: bool, rulebase: Rulebase | None, paused: Mapping[str, Pause]
) -> pb.Rulebase:
    """The revision; without `rulebase`, only what its row says. `paused`: campaigns that are, by name."""
    described = pb.Rulebase(
        revision=row.revision,
        name=row.name,
        state=_state(row, live),
        author=row.uploaded_by,
        uploaded_at=timestamp(row.uploaded_at_us),
        comment=row.comment,
    )
    if rulebase is not None:
        described.label = rulebase.label
        described.metric_count = len(rulebase.metrics)
        described.definition_count = len(rulebase.definitions)
        described.warnings.extend(_problem(each) for each in rulebase.warnings)
        for campaign in sorted(rulebase.campaigns.values(), key=lambda each: each.name):
            described.campaigns.append(_campaign(campaign, paused.get(campaign.name)))
    return described


def _campaign(campaign: Campaign, pause: Pause | None) -> pb.CampaignStatus:
    return pb.CampaignStatus(
        campaign=campaign.name,
        label=campaign.label,
        product=campaign.product,
        mode=mode_number(campaign.mode),
        paused=pause is not None,
        paused_by=pause.by if pause else "",
        pause_reason=pause.reason if pause else "",
        paused_at=timestamp(pause.at_us) if pause else None,
    )


def _history(row: RulebaseRow) -> list[pb.HistoryEntry]:
    entries = [
        pb.HistoryEntry(
            occurred_at=timestamp(row.uploaded_at_us),
            actor=row.uploaded_by,
            action="uploaded",
            comment=row.comment,
        )
    ]
    if row.activated_at_us:
        entries.insert(0, pb.HistoryEntry(occurred_at=timestamp(row.activated_at_us), action="activated"))
    return entries


def _attempt(attempt: Attempt) -> pb.ActivationAttempt:
    return pb.ActivationAttempt(
        revision=attempt.revision,
        attempted_at=timestamp(attempt.at_us),
        succeeded=not attempt.message,
        message=attempt.message,
        problems=[_problem(each) for each in attempt.problems],
    )


def _problem(problem: Problem) -> pb.Problem:
    return pb.Problem(
        file=problem.position.file,
        line=problem.position.line,
        column=problem.position.column,
        severity=_SEVERITIES[problem.severity],
        code=problem.code,
        message=problem.message,
        hint=problem.hint,
        snippet=problem.snippet,
    )
