# ruff: noqa: N802 - methods have the names of the contract
"""The fake's side of rulebases."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from opportune.v1 import rulebase_service_pb2 as pb
from opportune.v1 import types_pb2
from opportune.v1.rulebase_service_pb2_grpc import RulebaseServiceServicer

from opportune_client.testing.state import Failure, State, abort
from opportune_client.times import to_timestamp

_WHO = "fake"


class Rulebases(RulebaseServiceServicer):
    """Keeps archives by the hash of their bytes, and says of them what the test laid out.

    It knows nobody: whoever uploaded a revision may approve it, and one that was never approved or tested
    can be activated, unless it is a draft.
    """

    def __init__(self, state: State) -> None:
        self._state = state

    def CheckRulebase(self, request: pb.CheckRulebaseRequest, context: Any) -> pb.CheckRulebaseResponse:
        self._state.enter("CheckRulebase", context)
        errors = self._errors()
        return pb.CheckRulebaseResponse(
            valid=not errors,
            problems=self._state.problems,
            revision="" if errors else _revision(request.archive.data),
        )

    def UploadRulebase(self, request: pb.UploadRulebaseRequest, context: Any) -> pb.UploadRulebaseResponse:
        state = self._state
        state.enter("UploadRulebase", context)
        if errors := self._errors():
            violations = tuple((f"archive.{error.file}", error.message) for error in errors)
            abort(
                context, Failure("INVALID_ARGUMENT", "the rulebase has errors", "BAD_RULEBASE", violations)
            )
        order = request.work_order if request.HasField("work_order") else None
        data = order.SerializeToString(deterministic=True) if order else request.archive.data
        revision = _revision(data)
        with state.changed:
            known = revision in state.archives
            if not known:
                state.archives[revision] = data
                state.rulebases[revision] = pb.Rulebase(
                    revision=revision,
                    name=order.order_id if order else "",
                    state=pb.RULEBASE_STATE_CHECKED,
                    author=_WHO,
                    uploaded_at=_now(),
                    comment=request.comment,
                )
                if order:
                    state.orders.append(order)
                self._note(revision, "uploaded", request.comment)
            return pb.UploadRulebaseResponse(rulebase=state.rulebases[revision], already_known=known)

    def TestRulebase(self, request: pb.TestRulebaseRequest, context: Any) -> pb.TestRulebaseResponse:
        state = self._state
        state.enter("TestRulebase", context)
        with state.changed:
            wanted = request.filter
            results = [r for r in state.test_results if wanted in r.file or wanted in r.name]
            passed = bool(results) and all(result.passed for result in results)
            if request.WhichOneof("target") == "revision":
                rulebase = self._known(request.revision, context)
                if passed and not wanted:
                    rulebase.state = max(rulebase.state, pb.RULEBASE_STATE_TESTED)
                    self._note(request.revision, "tested")
        return pb.TestRulebaseResponse(passed=passed, results=results)

    def RehearseRulebase(
        self, request: pb.RehearseRulebaseRequest, context: Any
    ) -> Iterator[pb.RehearseRulebaseResponse]:
        state = self._state
        state.enter("RehearseRulebase", context)
        with state.changed:
            rulebase = self._known(request.revision, context)
            rulebase.state = max(rulebase.state, pb.RULEBASE_STATE_REHEARSED)
            self._note(request.revision, "rehearsed")
        yield from state.rehearsal

    def ApproveRulebase(
        self, request: pb.ApproveRulebaseRequest, context: Any
    ) -> pb.ApproveRulebaseResponse:
        state = self._state
        state.enter("ApproveRulebase", context)
        with state.changed:
            rulebase = self._known(request.revision, context)
            if not rulebase.approver:
                rulebase.approver = _WHO
                rulebase.approved_at.CopyFrom(_now())
                rulebase.state = max(rulebase.state, pb.RULEBASE_STATE_APPROVED)
                self._note(request.revision, "approved", request.comment)
        return pb.ApproveRulebaseResponse(rulebase=rulebase)

    def ActivateRulebase(
        self, request: pb.ActivateRulebaseRequest, context: Any
    ) -> pb.ActivateRulebaseResponse:
        state = self._state
        state.enter("ActivateRulebase", context)
        with state.changed:
            rulebase = self._known(request.revision, context)
            before = state.active_revision
            if rulebase.state == pb.RULEBASE_STATE_DRAFT:
                self._fail(request.revision, "bind its names first", "FAILED_PRECONDITION", context)
            if request.expected_current_revision != before:
                self._fail(request.revision, "another revision is in force", "ABORTED", context)
            mode = request.mode or types_pb2.ACTIVATION_MODE_FULL
            activation = pb.Activation(
                revision=request.revision,
                mode=mode,
                canary_share=request.canary_share,
                activated_at=_now(),
                actor=_WHO,
                comment=request.comment,
            )
            self._put_in_force(activation, "activated")
            return pb.ActivateRulebaseResponse(
                activation=activation, previous_revision=before, activations=state.activations
            )

    def RollbackRulebase(
        self, request: pb.RollbackRulebaseRequest, context: Any
    ) -> pb.RollbackRulebaseResponse:
        state = self._state
        state.enter("RollbackRulebase", context)
        with state.changed:
            before = state.active_revision
            earlier = [revision for revision in state.full if revision != before]
            if not (revision := request.revision or (earlier[-1] if earlier else "")):
                self._fail("", "nothing was in force before", "FAILED_PRECONDITION", context)
            self._known(revision, context)
            if request.expected_current_revision != before:
                self._fail(revision, "another revision is in force", "ABORTED", context)
            activation = pb.Activation(
                revision=revision,
                mode=types_pb2.ACTIVATION_MODE_FULL,
                activated_at=_now(),
                actor=_WHO,
                comment=request.comment,
            )
            self._put_in_force(activation, "rolled-back")
            return pb.RollbackRulebaseResponse(
                activation=activation, previous_revision=before, activations=state.activations
            )

    def GetRulebase(self, request: pb.GetRulebaseRequest, context: Any) -> pb.GetRulebaseResponse:
        state = self._state
        state.enter("GetRulebase", context)
        with state.changed:
            revision = request.revision or state.active_revision
            response = pb.GetRulebaseResponse(
                rulebase=self._known(revision, context),
                activations=state.activations,
                last_attempt=state.last_attempt,
                history=reversed(state.history[revision]),
            )
            if request.include_archive:
                response.archive.data = state.archives[revision]
            response.rulebase.campaigns.extend(state.paused.values())
        return response

    def ListRulebases(self, request: pb.ListRulebasesRequest, context: Any) -> pb.ListRulebasesResponse:
        state = self._state
        state.enter("ListRulebases", context)
        with state.changed:
            wanted = [
                each
                for each in reversed(state.rulebases.values())
                if request.state in {pb.RULEBASE_STATE_UNSPECIFIED, each.state}
            ]
        start = int(request.page_token or 0)
        end = start + (request.page_size or 50)
        return pb.ListRulebasesResponse(
            rulebases=wanted[start:end], next_page_token=str(end) if end < len(wanted) else ""
        )

    def DiffRulebases(self, request: pb.DiffRulebasesRequest, context: Any) -> pb.DiffRulebasesResponse:
        state = self._state
        state.enter("DiffRulebases", context)
        with state.changed:
            for revision in (request.from_revision or state.active_revision, request.to_revision):
                self._known(revision, context)
            return pb.DiffRulebasesResponse(changes=state.changes)

    def WatchRulebase(
        self, request: pb.WatchRulebaseRequest, context: Any
    ) -> Iterator[pb.WatchRulebaseResponse]:
        state = self._state
        state.enter("WatchRulebase", context)
        with state.changed:
            told = len(state.news)
            snapshot = self._now_in_force(pb.RULEBASE_EVENT_KIND_SNAPSHOT)
        yield snapshot
        context.add_callback(self._wake)
        while (news := self._news_after(told, context)) is not None:
            yield from news
            told += len(news)
        abort(context, Failure("UNAVAILABLE", "the service stops"))

    def PauseCampaign(self, request: pb.PauseCampaignRequest, context: Any) -> pb.PauseCampaignResponse:
        state = self._state
        state.enter("PauseCampaign", context)
        with state.changed:
            status = pb.CampaignStatus(
                campaign=request.campaign, paused=True, paused_by=_WHO, pause_reason=request.reason
            )
            if request.campaign not in state.paused:
                state.paused[request.campaign] = status
                self._tell(pb.RULEBASE_EVENT_KIND_PAUSED, campaign=request.campaign)
            status = state.paused[request.campaign]
        return pb.PauseCampaignResponse(campaign=status)

    def ResumeCampaign(self, request: pb.ResumeCampaignRequest, context: Any) -> pb.ResumeCampaignResponse:
        state = self._state
        state.enter("ResumeCampaign", context)
        with state.changed:
            if state.paused.pop(request.campaign, None) is not None:
                self._tell(pb.RULEBASE_EVENT_KIND_RESUMED, campaign=request.campaign)
        status = pb.CampaignStatus(campaign=request.campaign)
        return pb.ResumeCampaignResponse(campaign=status)

    def _errors(self) -> list[pb.Problem]:
        error = pb.PROBLEM_SEVERITY_ERROR
        return [problem for problem in self._state.problems if problem.severity == error]

    # From here to `_tell` all is called under `changed`.

    def _known(self, revision: str, context: Any) -> pb.Rulebase:
        if revision not in self._state.rulebases:
            abort(context, Failure("NOT_FOUND", "no such revision", "UNKNOWN_REVISION"))
        return self._state.rulebases[revision]

    def _put_in_force(self, activation: pb.Activation, action: str) -> None:
        """As the service does it: a full one ends the others, any other takes the place of its kind."""
        state = self._state
        full = types_pb2.ACTIVATION_MODE_FULL
        stay = [a for a in state.activations if activation.mode not in {full, a.mode}]
        state.activations[:] = sorted([*stay, activation], key=lambda each: each.mode)
        if activation.mode == full:
            state.full.append(activation.revision)
        running = {each.revision for each in state.activations}
        for rulebase in state.rulebases.values():
            if rulebase.revision in running:
                rulebase.state = pb.RULEBASE_STATE_ACTIVE
            elif rulebase.state == pb.RULEBASE_STATE_ACTIVE:
                rulebase.state = pb.RULEBASE_STATE_SUPERSEDED
        self._note(activation.revision, action, activation.comment)
        entry = state.history[activation.revision][-1]
        entry.mode, entry.canary_share = activation.mode, activation.canary_share
        state.last_attempt = pb.ActivationAttempt(
            revision=activation.revision, attempted_at=activation.activated_at, succeeded=True
        )
        self._tell(pb.RULEBASE_EVENT_KIND_ACTIVATED, attempt=state.last_attempt)

    def _fail(self, revision: str, message: str, code: str, context: Any) -> None:
        state = self._state
        state.last_attempt = pb.ActivationAttempt(revision=revision, attempted_at=_now(), message=message)
        self._tell(pb.RULEBASE_EVENT_KIND_ACTIVATION_FAILED, attempt=state.last_attempt)
        reason = "REVISION_CHANGED" if code == "ABORTED" else "NOT_READY"
        abort(context, Failure(code, message, reason))

    def _note(self, revision: str, action: str, comment: str = "") -> None:
        entry = pb.HistoryEntry(occurred_at=_now(), actor=_WHO, action=action, comment=comment)
        self._state.history[revision].append(entry)

    def _now_in_force(self, kind: pb.RulebaseEventKind.ValueType, **about: Any) -> pb.WatchRulebaseResponse:
        state = self._state
        return pb.WatchRulebaseResponse(
            kind=kind, activations=state.activations, paused_campaigns=state.paused.values(), **about
        )

    def _tell(self, kind: pb.RulebaseEventKind.ValueType, **about: Any) -> None:
        self._state.news.append(self._now_in_force(kind, **about))
        self._state.changed.notify_all()

    def _news_after(self, told: int, context: Any) -> list[pb.WatchRulebaseResponse] | None:
        """Waits for some; None: nobody listens any more."""
        state = self._state
        with state.changed:
            state.changed.wait_for(
                lambda: state.stopping or not context.is_active() or len(state.news) > told
            )
            return None if state.stopping or not context.is_active() else state.news[told:]

    def _wake(self) -> None:
        with self._state.changed:
            self._state.changed.notify_all()


def _revision(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _now() -> Timestamp:
    return to_timestamp(datetime.now(UTC))
