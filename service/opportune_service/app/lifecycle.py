"""How far a revision has come, and what that allows. Pure.

    draft -> checked -> tested -> rehearsed -> approved -> active -> superseded

The state of a revision is kept nowhere: it follows from its steps, which are only added to, and from what
is in force. So it cannot disagree with the history that people are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from opportune_rulebase.diff import Change
from opportune_rulebase.model import Rulebase

from opportune_service.app.callers import Caller
from opportune_service.app.errors import ForbiddenError, NotReadyError
from opportune_service.app.records import ActivationMode, Step, StepKind


class RulebaseState(StrEnum):
    """How far a revision has come; in the contract each is explained."""

    DRAFT = "draft"
    CHECKED = "checked"
    TESTED = "tested"
    REHEARSED = "rehearsed"
    APPROVED = "approved"
    ACTIVE = "active"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True)
class Progress:
    """What the steps of a revision come to.

    `authors`: everybody who uploaded it; it may have been uploaded again with other tests, or a signature.
    `tested`: its tests passed since then. `approval`: the last one. `been_full`: it was in full force.
    `decided_since`: it came into force, in whatever mode, after the last approval.
    """

    drafted: bool = False
    authors: frozenset[str] = frozenset()
    tested: bool = False
    rehearsed: bool = False
    approval: Step | None = None
    been_full: bool = False
    decided_since: bool = False

    def state(self, *, in_force: bool) -> RulebaseState:
        """How far it has come, if it is in force or not."""
        if in_force:
            return RulebaseState.ACTIVE
        if self.decided_since:
            return RulebaseState.SUPERSEDED
        if self.approval is not None:
            return RulebaseState.APPROVED
        if self.tested:
            return RulebaseState.REHEARSED if self.rehearsed else RulebaseState.TESTED
        return RulebaseState.DRAFT if self.drafted else RulebaseState.CHECKED


def progress(steps: Sequence[Step]) -> Progress:
    """How far these steps, in order of recording and all of one revision, have brought it."""
    drafted = tested = rehearsed = been_full = decided_since = False
    authors: set[str] = set()
    approval: Step | None = None
    for step in steps:
        match step.kind:
            case StepKind.DRAFTED:
                drafted = True
                authors.add(step.by)
            case StepKind.UPLOADED:
                # Tests are no part of what a revision is named by: these may be others.
                drafted = tested = False
                authors.add(step.by)
            case StepKind.TESTED:
                tested = True
            case StepKind.REHEARSED:
                rehearsed = True
            case StepKind.APPROVED:
                approval, decided_since = step, False
            case StepKind.ACTIVATED | StepKind.ROLLED_BACK:
                decided_since = True
                been_full = been_full or step.mode is ActivationMode.FULL
    return Progress(drafted, frozenset(authors), tested, rehearsed, approval, been_full, decided_since)


# -- what that allows -------------------------------------------------------------------------------


def check_approval(revision: str, so_far: Progress, by: str) -> None:
    """Raises `ForbiddenError` for whoever uploaded the revision, `NotReadyError` if its own tests have not
    passed."""
    if by in so_far.authors:
        raise ForbiddenError(f"{by} uploaded revision {revision[:12]}, so somebody else has to approve it")
    check_no_draft(revision, so_far)
    if not so_far.tested:
        raise NotReadyError(
            f"the tests of revision {revision[:12]} have not passed yet; run TestRulebase on it, without a "
            "filter, then approve it"
        )


def check_activation(revision: str, so_far: Progress, mode: ActivationMode, *, gated: bool) -> None:
    """Raises `NotReadyError` if the revision may not come into force in this mode. `gated`: callers are
    known, so that an approval by another means something."""
    check_no_draft(revision, so_far)
    if gated and mode is not ActivationMode.SHADOW and so_far.approval is None and not so_far.been_full:
        raise NotReadyError(
            f"nobody has approved revision {revision[:12]}; somebody other than "
            f"{', '.join(sorted(so_far.authors)) or 'its author'} has to, by ApproveRulebase"
        )


def check_rollback(revision: str, so_far: Progress) -> None:
    """Raises `NotReadyError` unless the revision was in full force before."""
    if not so_far.been_full:
        raise NotReadyError(
            f"revision {revision[:12]} was never in full force, so there is no way back to it; "
            "ActivateRulebase lets it decide for the first time"
        )


def check_no_draft(revision: str, so_far: Progress) -> None:
    """Raises `NotReadyError` for a draft."""
    if so_far.drafted:
        raise NotReadyError(
            f"revision {revision[:12]} is a draft, in which names are not bound; GetRulebase lists them: "
            "upload the work order again, with all of them in scene_bindings"
        )


def check_scope(caller: Caller, changes: Iterable[Change], before: Rulebase, after: Rulebase) -> None:
    """Raises `ForbiddenError` unless the caller may bring these changes. One for certain branches may add,
    change and remove campaigns that serve none but these, before and after, and nothing else: whatever
    campaigns have in common (definitions, policies, products, tables ...) bears on other branches."""
    if caller.branches is None:
        return
    for change in changes:
        if change.element != "campaign":
            raise ForbiddenError(
                f"{caller.name} may change campaigns of {', '.join(sorted(caller.branches)) or 'no branch'}"
                f" alone, and {change.element} {change.name!r} is {change.kind.value}: begin with the"
                " revision in full force, or ask somebody who is for all branches"
            )
        for side in (before, after):
            campaign = side.campaigns.get(change.name)
            if campaign is not None:
                caller.check_branches(change.name, campaign.branches)
