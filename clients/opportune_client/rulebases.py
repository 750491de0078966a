"""The life of a rulebase: check, upload, test, rehearse, approve, activate, roll back, watch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime
from typing import Any, cast

import grpc
from opportune.v1 import rulebase_service_pb2 as pb
from opportune.v1 import types_pb2
from opportune.v1.rulebase_service_pb2_grpc import RulebaseServiceStub

from opportune_client.archives import Source, archive_of
from opportune_client.errors import translated
from opportune_client.times import to_timestamp
from opportune_client.words import ActivationMode, RulebaseState


class RulebaseCalls:
    """All of RulebaseService, as a part of `OperatorClient`.

    A revision is named by its whole hash, as answers have it. Two errors may come of every call and are
    not repeated below: AccessError, and UnavailableError, after which nothing is known to be done.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._rulebases = RulebaseServiceStub(channel)

    def check(
        self, rulebase: Source, *, signature: bytes = b"", timeout: float | None = None
    ) -> pb.CheckRulebaseResponse:
        """Every problem of a rulebase; finding some is no error. Stores nothing."""
        request = pb.CheckRulebaseRequest(archive=archive_of(rulebase, signature))
        with translated():
            return self._rulebases.CheckRulebase(request, timeout=timeout)

    def upload(
        self,
        rulebase: Source,
        *,
        signature: bytes = b"",
        comment: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.UploadRulebaseResponse:
        """Stores a revision; nothing decides by it yet. Uploading it again changes nothing.

        `signature` is a detached one of the archive's bytes: give the archive itself, then, not a
        directory. RequestError: it has errors; `violations` holds the first of them, `check` lists all.
        """
        request = pb.UploadRulebaseRequest(
            archive=archive_of(rulebase, signature), comment=comment, request_id=request_id
        )
        with translated():
            return self._rulebases.UploadRulebase(request, timeout=timeout)

    def order(
        self,
        order_id: str,
        document: str,
        *,
        scene_bindings: Mapping[str, str] | None = None,
        base_revision: str = "",
        comment: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.UploadRulebaseResponse:
        """Stores a draft: `base_revision`, or the one in full force, with one campaign more.

        `document` is the campaign in the rulebase language; `scene_bindings` maps the planning system's
        names in it to qualified names of the rulebase. A draft with names that nothing is bound to is
        stored and cannot be activated. RequestError: it has other errors. NotFoundError: no such base.
        """
        order = pb.WorkOrder(
            order_id=order_id,
            base_revision=base_revision,
            document=document,
            scene_bindings=scene_bindings or {},
        )
        request = pb.UploadRulebaseRequest(work_order=order, comment=comment, request_id=request_id)
        with translated():
            return self._rulebases.UploadRulebase(request, timeout=timeout)

    def test(
        self, revision: str, *, only: str = "", timeout: float | None = None
    ) -> pb.TestRulebaseResponse:
        """Runs the tests that a stored revision carries; a failed one is no error. If all of them pass, it
        has been tested. `only`: cases whose file or name contains this. NotFoundError: no such revision."""
        request = pb.TestRulebaseRequest(revision=revision, filter=only)
        with translated():
            return self._rulebases.TestRulebase(request, timeout=timeout)

    def test_archive(
        self, rulebase: Source, *, only: str = "", timeout: float | None = None
    ) -> pb.TestRulebaseResponse:
        """As `test`, of a rulebase that is not stored, and is not by this."""
        request = pb.TestRulebaseRequest(archive=archive_of(rulebase), filter=only)
        with translated():
            return self._rulebases.TestRulebase(request, timeout=timeout)

    def rehearse(
        self,
        revision: str,
        *,
        since: datetime,
        until: datetime | None = None,
        folded_since: datetime | None = None,
        baseline_revision: str = "",
        sample_size: int | None = None,
        test_subscriber_ids: Collection[str] = (),
        test_sends_per_campaign: int = 1,
        timeout: float | None = None,
    ) -> Iterator[pb.RehearseRulebaseResponse]:
        """Runs a revision over recorded events, [since, until), and compares with `baseline_revision`, or
        the one in full force. Yields progress, and the report last. Events from `folded_since` on, absent:
        from as far back as anybody looks, make metrics and patterns known at `since`.

        Nobody is contacted but `test_subscriber_ids`. To stop it, close the iterator. There is no deadline
        unless `timeout` says so. RequestError: the time is empty. NotFoundError: no such revision.
        """
        request = pb.RehearseRulebaseRequest(
            revision=revision,
            baseline_revision=baseline_revision,
            since=to_timestamp(since),
            until=to_timestamp(until) if until is not None else None,
            folded_since=to_timestamp(folded_since) if folded_since is not None else None,
            sample_size=sample_size,
            test_subscriber_ids=test_subscriber_ids,
            test_sends_per_campaign=test_sends_per_campaign,
        )
        return _stream(self._rulebases.RehearseRulebase, request, timeout)

    def approve(
        self, revision: str, *, comment: str = "", request_id: str = "", timeout: float | None = None
    ) -> pb.Rulebase:
        """Approves a revision; approving again changes nothing. AccessError: by whoever uploaded it.
        NotReadyError: its tests have not passed. NotFoundError: no such revision."""
        request = pb.ApproveRulebaseRequest(revision=revision, comment=comment, request_id=request_id)
        with translated():
            return self._rulebases.ApproveRulebase(request, timeout=timeout).rulebase

    def activate(
        self,
        revision: str,
        *,
        expected_current: str = "",
        mode: ActivationMode = ActivationMode.FULL,
        canary_share: float = 0.0,
        backfill: bool = False,
        comment: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.ActivateRulebaseResponse:
        """Lets a stored revision decide, for everybody unless `mode` says otherwise; answers when it is in
        force. FULL also ends canary and shadow; a canary decides for `canary_share` of the subscribers,
        above 0 and below 1.

        `expected_current` is the revision that the caller believes to be in full force, empty if none is:
        ConflictError if it is another. `backfill`: whether metrics that are new with it are filled from
        the service's log of events; it answers without waiting for that. NotReadyError: what it needs has
        not been done, such as its approval. On any error what was in force still is, except DeadlineError
        and UnavailableError, after which `get` tells. Not repeated by itself; with a `request_id` it may
        be repeated safely.
        """
        request = pb.ActivateRulebaseRequest(
            revision=revision,
            expected_current_revision=expected_current,
            mode=cast("types_pb2.ActivationMode.ValueType", int(mode)),
            canary_share=canary_share,
            backfill=backfill,
            comment=comment,
            request_id=request_id,
        )
        with translated():
            return self._rulebases.ActivateRulebase(request, timeout=timeout)

    def rollback(
        self,
        revision: str = "",
        *,
        expected_current: str,
        comment: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.RollbackRulebaseResponse:
        """Puts a revision in full force that was so before, by default the one just before this; ends
        canary and shadow. Errors and repetition as of `activate`. NotReadyError: it was never in force."""
        request = pb.RollbackRulebaseRequest(
            revision=revision,
            expected_current_revision=expected_current,
            comment=comment,
            request_id=request_id,
        )
        with translated():
            return self._rulebases.RollbackRulebase(request, timeout=timeout)

    def get(
        self, revision: str = "", *, include_archive: bool = False, timeout: float | None = None
    ) -> pb.GetRulebaseResponse:
        """One revision, by default the one in full force, its history, and what is in force.
        NotFoundError: no such one."""
        request = pb.GetRulebaseRequest(revision=revision, include_archive=include_archive)
        with translated():
            return self._rulebases.GetRulebase(request, timeout=timeout)

    def list_rulebases(
        self,
        *,
        state: RulebaseState | None = None,
        page_size: int = 50,
        timeout: float | None = None,
    ) -> Iterator[pb.Rulebase]:
        """Revisions, newest first, fetched page by page: all, or those that have come exactly so far.
        `timeout` is that of one page."""
        request = pb.ListRulebasesRequest(
            state=cast("pb.RulebaseState.ValueType", int(state or 0)), page_size=page_size
        )
        for page in pages(self._rulebases.ListRulebases, request, timeout):
            yield from page.rulebases

    def diff(
        self, to_revision: str, from_revision: str = "", *, timeout: float | None = None
    ) -> list[pb.RulebaseChange]:
        """What changes with a revision, compared with another or with the one in full force; empty:
        nothing that has a meaning. NotFoundError: no such revision, or none is in force."""
        request = pb.DiffRulebasesRequest(from_revision=from_revision, to_revision=to_revision)
        with translated():
            return list(self._rulebases.DiffRulebases(request, timeout=timeout).changes)

    def watch(self, *, timeout: float | None = None) -> Iterator[pb.WatchRulebaseResponse]:
        """What is in force: once at the start, then at each change; does not end by itself. To stop it,
        close the iterator. UnavailableError ends it; call it again, and its first message tells all."""
        return _stream(self._rulebases.WatchRulebase, pb.WatchRulebaseRequest(), timeout)

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


def pages(call: Callable[..., Any], request: Any, timeout: float | None) -> Iterator[Any]:
    """The pages of a list, each fetched when it is asked for."""
    while True:
        with translated():
            page = call(request, timeout=timeout)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def _stream(call: Callable[..., Any], request: Any, timeout: float | None) -> Iterator[Any]:
    """The messages of a stream; it is cancelled when nobody wants more of them."""
    with translated():
        messages = call(request, timeout=timeout)
        try:
            yield from messages
        finally:
            messages.cancel()
