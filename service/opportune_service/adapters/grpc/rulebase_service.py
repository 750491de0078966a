"""What operators do with rulebases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from opportune.v1 import rulebase_service_pb2 as pb
from opportune_rulebase.model import Campaign

from opportune_service.adapters.grpc import rulebase_words as words
from opportune_service.adapters.grpc.handlers import Context
from opportune_service.adapters.grpc.rehearsals import answers, asked_for
from opportune_service.adapters.grpc.roles import caller_of
from opportune_service.adapters.grpc.use_cases import UseCases
from opportune_service.adapters.grpc.words import check_length, page_size
from opportune_service.app.errors import (
    InvalidRequestError,
    RulebaseRefusedError,
    UnknownRevisionError,
    UnloadableRevisionError,
)
from opportune_service.app.promotions import Asked, share_of
from opportune_service.app.records import ActivationMode, Pause
from opportune_service.app.rulebases import Stored, WorkOrder, unpacked

MAX_ARCHIVE_BYTES = 16 << 20
_MAX_SIGNATURE = 1_024
_MAX_COMMENT = 2_000
_MAX_FILTER = 200
_MAX_NAME = 200
_MAX_REASON = 500


class RulebaseService:
    """See the contract."""

    def __init__(self, app: UseCases) -> None:
        self._app = app
        self._rulebases = app.rulebases
        self._promotions = app.promotions

    # -- putting in and trying ----------------------------------------------------------------------

    async def CheckRulebase(  # noqa: N802
        self, request: pb.CheckRulebaseRequest, _: Context
    ) -> pb.CheckRulebaseResponse:
        _check_archive(request.archive)
        try:
            report = await self._rulebases.check(await unpacked(request.archive.data))
        except RulebaseRefusedError as error:
            return pb.CheckRulebaseResponse(problems=words.problems(error.problems))
        return pb.CheckRulebaseResponse(
            valid=report.rulebase is not None,
            problems=words.problems(report.problems),
            revision=report.rulebase.revision if report.rulebase else "",
        )

    async def UploadRulebase(  # noqa: N802
        self, request: pb.UploadRulebaseRequest, context: Context
    ) -> pb.UploadRulebaseResponse:
        _check_words(request.comment, request.request_id)
        caller = caller_of(context)
        if request.HasField("work_order"):
            uploaded = await self._rulebases.order(_order(request.work_order), caller, request.comment)
        else:
            _check_archive(request.archive)
            archive = request.archive
            uploaded = await self._rulebases.upload_archive(
                archive.data, archive.signature, caller, request.comment
            )
        stored = await self._rulebases.find(uploaded.revision)
        return pb.UploadRulebaseResponse(
            rulebase=await self._described(stored), already_known=not uploaded.is_new
        )

    async def TestRulebase(  # noqa: N802
        self, request: pb.TestRulebaseRequest, context: Context
    ) -> pb.TestRulebaseResponse:
        check_length("filter", request.filter, _MAX_FILTER)
        if request.WhichOneof("target") == "archive":
            _check_archive(request.archive)
            try:
                files = await unpacked(request.archive.data)
            except RulebaseRefusedError as error:
                return pb.TestRulebaseResponse(problems=words.problems(error.problems))
            return words.tests(await self._promotions.test_files(files, request.filter))
        revision = _revision("revision", request.revision)
        return words.tests(await self._promotions.test(revision, caller_of(context), request.filter))

    async def RehearseRulebase(  # noqa: N802
        self, request: pb.RehearseRulebaseRequest, context: Context
    ) -> AsyncIterator[pb.RehearseRulebaseResponse]:
        asked, caller = asked_for(request), caller_of(context)
        said = answers(self._app.rehearsals, asked, caller, self._promotions.note_rehearsed)
        async with aclosing(said):
            async for answer in said:
                yield answer

    # -- letting it decide --------------------------------------------------------------------------

    async def ApproveRulebase(  # noqa: N802
        self, request: pb.ApproveRulebaseRequest, context: Context
    ) -> pb.ApproveRulebaseResponse:
        _check_words(request.comment, request.request_id)
        revision = _revision("revision", request.revision)
        stored = await self._promotions.approve(revision, caller_of(context), request.comment)
        return pb.ApproveRulebaseResponse(rulebase=await self._described(stored))

    async def ActivateRulebase(  # noqa: N802
        self, request: pb.ActivateRulebaseRequest, context: Context
    ) -> pb.ActivateRulebaseResponse:
        _check_words(request.comment, request.request_id)
        mode = words.MODES.get(request.mode)
        if mode is None:
            raise InvalidRequestError("mode", "mode must be one that the contract names")
        is_canary = mode is ActivationMode.CANARY
        if request.canary_share and not is_canary:
            raise InvalidRequestError("canary_share", "canary_share is for mode CANARY only")
        asked = Asked(
            *(_revision("revision", request.revision), request.expected_current_revision, request.comment),
            mode=mode,
            share=share_of(request.canary_share) if is_canary else 0,
            backfill=request.backfill,
            request_id=request.request_id,
        )
        done = await self._promotions.activate(asked, caller_of(context))
        return pb.ActivateRulebaseResponse(
            activation=words.activation(done.activation),
            previous_revision=done.previous,
            activations=[words.activation(each) for each in done.in_force],
        )

    async def RollbackRulebase(  # noqa: N802
        self, request: pb.RollbackRulebaseRequest, context: Context
    ) -> pb.RollbackRulebaseResponse:
        _check_words(request.comment, request.request_id)
        if not request.expected_current_revision:
            raise InvalidRequestError(
                "expected_current_revision",
                "expected_current_revision must name the revision in full force; GetRulebase says which",
            )
        done = await self._promotions.roll_back(
            request.revision,
            request.expected_current_revision,
            caller_of(context),
            request.comment,
            request.request_id,
        )
        return pb.RollbackRulebaseResponse(
            activation=words.activation(done.activation),
            previous_revision=done.previous,
            activations=[words.activation(each) for each in done.in_force],
        )

    # -- looking ------------------------------------------------------------------------------------

    async def GetRulebase(  # noqa: N802
        self, request: pb.GetRulebaseRequest, _: Context
    ) -> pb.GetRulebaseResponse:
        stored = await self._rulebases.find(request.revision)
        rulebase = await self._described(stored)
        names = [each.campaign for each in rulebase.campaigns]
        answer = pb.GetRulebaseResponse(
            rulebase=rulebase,
            activations=[words.activation(each) for each in await self._rulebases.in_force()],
            history=words.history(stored, await self._rulebases.pause_changes(stored, names)),
        )
        if request.include_archive:
            answer.archive.format = pb.ARCHIVE_FORMAT_ZIP
            data, signature = await self._rulebases.archive(stored.row.revision)
            answer.archive.data, answer.archive.signature = data, signature
        attempt = self._app.activations.last_attempt
        if attempt is not None:
            answer.last_attempt.CopyFrom(words.attempt(attempt))
        return answer

    async def ListRulebases(  # noqa: N802
        self, request: pb.ListRulebasesRequest, _: Context
    ) -> pb.ListRulebasesResponse:
        if request.state not in words.STATES:
            raise InvalidRequestError("state", "state must be one that the contract names")
        size = page_size(request.page_size)
        page, more = await self._rulebases.page(words.STATES[request.state], request.page_token, size)
        return pb.ListRulebasesResponse(
            rulebases=[words.bare(each) for each in page],
            next_page_token=page[-1].row.revision if more else "",
        )

    async def DiffRulebases(  # noqa: N802
        self, request: pb.DiffRulebasesRequest, _: Context
    ) -> pb.DiffRulebasesResponse:
        later = _revision("to_revision", request.to_revision)
        changes = await self._rulebases.diff(request.from_revision, later)
        return pb.DiffRulebasesResponse(changes=[words.change(each) for each in changes])

    async def WatchRulebase(  # noqa: N802
        self, _request: pb.WatchRulebaseRequest, _: Context
    ) -> AsyncIterator[pb.WatchRulebaseResponse]:
        async for told in self._app.watching.watch():
            yield words.told(told, self._campaigns())

    # -- pausing ------------------------------------------------------------------------------------

    async def PauseCampaign(  # noqa: N802
        self, request: pb.PauseCampaignRequest, context: Context
    ) -> pb.PauseCampaignResponse:
        _check_campaign(request.campaign, request.request_id)
        check_length("reason", request.reason, _MAX_REASON, least=1)
        pause = await self._app.pauses.pause(request.campaign, caller_of(context), request.reason)
        return pb.PauseCampaignResponse(campaign=self._status(request.campaign, pause))

    async def ResumeCampaign(  # noqa: N802
        self, request: pb.ResumeCampaignRequest, context: Context
    ) -> pb.ResumeCampaignResponse:
        _check_campaign(request.campaign, request.request_id)
        check_length("reason", request.reason, _MAX_REASON)
        await self._app.pauses.resume(request.campaign, caller_of(context), request.reason)
        return pb.ResumeCampaignResponse(campaign=self._status(request.campaign, None))

    def _status(self, name: str, pause: Pause | None) -> pb.CampaignStatus:
        return words.campaign_status(name, self._campaigns().get(name), pause)

    def _campaigns(self) -> dict[str, Campaign]:
        """Of the revisions in force, by name."""
        if not self._app.live.id:
            return {}
        found: dict[str, Campaign] = {}
        for each in reversed(self._app.live.current.side_by_side):
            found |= each.rulebase.campaigns  # as the one in full force has them
        return found

    # -- in the contract's words --------------------------------------------------------------------

    async def _described(self, stored: Stored) -> pb.Rulebase:
        """With its campaigns; or, if it does not load, with what is wrong with it."""
        try:
            rulebase = await self._rulebases.loaded(stored.row.revision)
        except UnloadableRevisionError as error:
            broken = words.bare(stored)
            broken.warnings.extend(words.problems(error.problems))
            return broken
        return words.described(stored, rulebase, await self._app.pauses.paused())


def _check_words(comment: str, request_id: str) -> None:
    check_length("comment", comment, _MAX_COMMENT)
    check_length("request_id", request_id, 64)


def _check_campaign(campaign: str, request_id: str) -> None:
    check_length("campaign", campaign, _MAX_NAME, least=1)
    check_length("request_id", request_id, 64)


def _revision(field: str, revision: str) -> str:
    if not revision:
        raise UnknownRevisionError(f"{field} is empty; name one that was uploaded")
    return revision


def _check_archive(archive: pb.RulebaseArchive) -> None:
    if archive.format not in pb.ArchiveFormat.values():
        raise InvalidRequestError("archive.format", "archive.format must be zip, or absent")
    if not archive.data:
        raise InvalidRequestError("archive.data", "archive.data must hold the rulebase as a zip")
    if len(archive.data) > MAX_ARCHIVE_BYTES:
        raise InvalidRequestError("archive.data", f"archive.data has at most {MAX_ARCHIVE_BYTES} bytes")
    if len(archive.signature) > _MAX_SIGNATURE:
        raise InvalidRequestError(
            "archive.signature", f"archive.signature has at most {_MAX_SIGNATURE} bytes"
        )


def _order(order: pb.WorkOrder) -> WorkOrder:
    check_length("work_order.order_id", order.order_id, 64, least=1)
    return WorkOrder(order.order_id, order.base_revision, order.document, dict(order.scene_bindings))
